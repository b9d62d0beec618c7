"""`auto` resolves to what the machine has; measuring threads finds the faster number on a busy machine too."""

import subprocess
import sys

import pytest
import torch

from vitrail import hardware, machine
from vitrail.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    """No variable limits the threads, and none were measured yet."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    measured = (hardware._fastest_threads, hardware._bf16_is_faster)
    for measure in measured:
        measure.cache_clear()
    yield
    for measure in measured:
        measure.cache_clear()
    torch.set_num_threads(before)


def test_resolve_leaves_no_auto_and_a_second_time_changes_nothing():
    once = hardware.resolve(hardware.Hardware(device="cpu"))
    assert once.device == "cpu"
    assert once.precision in ("fp32", "bf16")
    assert once.compile == "off"
    assert 1 <= once.threads <= machine.cores()
    assert hardware.resolve(once) == once


def test_what_is_asked_for_is_kept():
    asked = hardware.Hardware(device="cpu", precision="fp32", compile="on", threads=1)
    assert hardware.resolve(asked) == asked
    assert torch.get_num_threads() == 1


def test_several_processes_share_the_cores():
    assert hardware.resolve(hardware.Hardware(device="cpu"), processes=machine.cores()).threads == 1


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.4, 6: 0.3}, 6),  # every core brings something, the odd last two as well
        ({1: 1.0, 2: 0.6, 4: 0.58, 6: 0.6}, 2),  # what brings less than 5 % is left to others
        ({1: 1.0, 2: 3.0, 4: 9.0, 6: 30.0}, 1),  # neighbours: threads that wait for each other lose
    ],
)
def test_the_fewest_threads_within_five_percent_of_the_fastest(monkeypatch, seconds, chosen):
    monkeypatch.setattr(machine, "cores", lambda: 6)
    monkeypatch.setattr(hardware, "_seconds_each", lambda work: seconds[torch.get_num_threads()])
    assert hardware.threads(0) == chosen


def test_a_count_that_loses_by_far_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "_seconds_each", lambda work: tried.append(torch.get_num_threads()) or tried[-1] ** 3)
    hardware.threads(0)
    assert tried.count(2) == 1


def test_measuring_threads_draws_no_random_number():
    before = torch.random.get_rng_state()
    hardware.threads(0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_threads_that_the_environment_names_are_taken(monkeypatch):
    monkeypatch.setattr(hardware, "_fastest_threads", lambda tokens, width: pytest.fail("measured"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert hardware.threads(0) == hardware.resolve(hardware.Hardware(device="cpu")).threads == 3
    assert hardware.threads(2) == 2  # asked for by name
    assert hardware.resolve(hardware.Hardware(device="cpu"), processes=2).threads == 3


def test_torchruns_one_thread_does_not_count_as_asked(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert hardware.resolve(hardware.Hardware(device="cpu"), processes=2).threads == 4


def test_what_slurm_gave_is_the_limit(monkeypatch):
    there = machine.cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert machine.cores() == 1 and hardware.threads(0) == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert machine.cores() == there


def test_the_same_work_is_measured_once(monkeypatch):
    tried = []
    monkeypatch.setattr(hardware, "_seconds_each", lambda work: tried.append(1) or 1.0)
    once = hardware.threads(0, tokens=64, width=32)
    count = len(tried)
    assert hardware.threads(0, tokens=64, width=32) == once and len(tried) == count
    hardware.threads(0, tokens=64, width=48)
    assert len(tried) > count


def test_autocast_of_float32_is_none_and_of_bfloat16_multiplies_in_it():
    left = torch.ones(4, 4)
    with hardware.autocast(CPU, torch.float32):
        assert (left @ left).dtype == torch.float32
    with hardware.autocast(CPU, torch.bfloat16):
        assert (left @ left).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("instructions", "bf16_seconds", "chosen"),
    [
        (True, 0.4, torch.bfloat16),  # AMX, Zen 4
        (True, 2.0, torch.float32),  # instructions that are there and slow
        (True, 0.9, torch.float32),  # the casts would cost what the products save
        (False, 0.4, torch.float32),  # not measured: torch would emulate it
    ],
)
def test_auto_precision_is_what_this_cpu_multiplies_faster(monkeypatch, instructions, bf16_seconds, chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    seconds = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}
    monkeypatch.setattr(hardware, "_product_seconds", seconds.__getitem__)
    assert hardware.precision("auto", CPU) == chosen


def test_measuring_a_product_leaves_threads_and_random_numbers_alone():
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    hardware._bf16_is_faster()
    assert torch.get_num_threads() == 2 and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hardware.device("gpu"), "'gpu'"),
        (lambda: hardware.precision("bf61", CPU), "did you mean 'bf16'"),
        (lambda: hardware.compiling("yes", CPU), "auto, on, off"),
        (lambda: hardware.threads(-1), "threads = -1"),
    ],
)
def test_a_setting_that_means_nothing_says_what_would(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_peak_is_positive_and_measured_once(monkeypatch):
    first = machine.peak_flops(CPU, torch.float32, 0.05)
    with monkeypatch.context() as patched:
        patched.setattr(machine.time, "perf_counter", pytest.fail)
        again = machine.peak_flops(CPU, torch.float32, 0.05)
    assert again == first > 0


def test_memory_is_within_the_machine():
    memory = machine.memory()
    assert 0 < memory.available <= memory.total
    assert 0 < machine.peak_memory(CPU) < memory.total


def test_kept_memory_is_soon_used_again_without_page_faults():
    """In a process of its own, for the C library cannot be told to forget it."""
    code = """
import resource, torch
from vitrail import machine
kept = machine.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(48 * 2**20, dtype=torch.uint8)  # above the largest threshold glibc ever chooses by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, [faults() for _ in range(60)][-1])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if out[0] == "True":
        assert int(out[1]) < 100  # of 12,288 pages
