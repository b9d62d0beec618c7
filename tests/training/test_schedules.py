"""Learning rates equal to those of vision_transformer, big_vision, BiT and MAE, step by step."""

import json

import pytest

from tests.support.golden import Golden
from vitrail.training.optim import Schedule, schedule
from vitrail.training.run import Optim

pytestmark = pytest.mark.oracle


def cases(golden: Golden, which: str) -> list[dict]:
    return json.loads((golden / "lr_schedules" / which).read_text())["cases"]


def ours(args: dict, warmup: int) -> Schedule:
    kind = args["decay_type"]
    end = args.get("linear_end", args.get("end"))
    milestones = tuple(step / args["total_steps"] for step in args.get("steps", ()))
    optim = Optim(
        schedule="linear" if kind == "polynomial" else kind,
        power=args.get("power", 1.0),
        final_lr=end or 0.0,
        timescale=args.get("timescale", 10_000),
        milestones=milestones,
        drop=args.get("mults", [0.1])[0],
    )
    scaled = args["base"] * (args["batch_size"] / 256 if args.get("scale_with_batchsize") else 1)
    return Schedule(optim, scaled, args["total_steps"], warmup, args.get("cooldown_steps", 0))


def assert_equal_rates(rate: Schedule, case: dict) -> None:
    assert [rate(step) for step in case["step"]] == pytest.approx(case["lr"], rel=1e-5, abs=1e-9)


def test_vision_transformer(golden: Golden) -> None:
    for case in cases(golden, "vision_transformer/schedules.json"):
        args = case["args"]
        if args["decay_type"] == "linear":
            args.setdefault("linear_end", 1e-5)  # their default
        assert_equal_rates(ours(args, args["warmup_steps"]), case)


def test_big_vision(golden: Golden) -> None:
    for case in cases(golden, "big_vision/schedules.json"):
        assert_equal_rates(ours(case["args"], case["warmup_steps_resolved"]), case)


def test_bit_hyper_rule(golden: Golden) -> None:
    for case in cases(golden, "bit_hyperrule/bit_hyperrule.json"):
        warmup, *drops, total = case["schedule"]
        # BiT falls after the step it names, big_vision at it
        optim = Optim(schedule="stair", milestones=tuple((step + 1) / total for step in drops))
        rate = Schedule(optim, 0.003, total, warmup)
        expected = {step: lr for step, lr in zip(case["step"], case["lr"], strict=True) if lr is not None}
        assert [rate(step) for step in expected] == pytest.approx(list(expected.values()), rel=1e-6)


def test_mae(golden: Golden) -> None:
    """MAE counts in fractional epochs; one of our steps is one of its epochs here."""
    for case in cases(golden, "mae/mae_lr_sched.json"):
        args = case["args"]
        optim = Optim(final_lr=args["min_lr"], lr=args["lr"], warmup=f"{args['warmup_epochs']} epochs")
        rate = schedule(optim, batch_size=64, steps_per_epoch=1, total=args["epochs"])
        assert [rate(epoch) for epoch in case["epoch"]] == pytest.approx(case["lr"], rel=1e-5)


def test_learning_rate_scales_with_the_batch_only_where_asked() -> None:
    per_256 = Optim(lr=1.5e-4, lr_batch=256, schedule="constant", warmup="0 steps")
    assert schedule(per_256, batch_size=4096, steps_per_epoch=1, total=10)(5) == pytest.approx(2.4e-3)
    assert schedule(Optim(lr=1e-3, schedule="constant"), batch_size=4096, steps_per_epoch=1, total=10)(5) == 1e-3
