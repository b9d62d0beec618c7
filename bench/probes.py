"""Protocols on features: the few-shot sweep against scikit-learn's Ridge, and k nearest neighbours at full size.

    python bench/probes.py [fewshot] [knn] [--test 10000] [--threads 2]

fewshot: 4 shots × 10 l2 × 3 seeds, 100 classes, D = 768. Both give the same 120
accuracies; aim: at least 10 times faster.
knn: 60,000 × 10,000 × 384, k = 200; aim: under 20 s on two cores, under 2 GiB.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does: waiting threads must not spin

import numpy as np
import torch

from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.fewshot import SHOTS, choose, few_shot

L2 = [2.0**power for power in range(1, 11)]
SEEDS = (0, 1, 2)


def data(n: int, width: int, classes: int, seed: int) -> Labelled:
    """Gaussian classes that overlap: features of a middling model."""
    centres = 0.12 * np.random.default_rng(99).standard_normal((classes, width), dtype=np.float32)
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)
    return labelled(centres[labels] + noise, labels, classes)


def ours(train: Labelled, test: Labelled) -> list[float]:
    return [cell.accuracy for cell in few_shot(train, test, shots=SHOTS, l2=L2, seeds=SEEDS)]


def scikit_learn(train: Labelled, test: Labelled) -> list[float]:
    """The same protocol, as one would write it: whiten, append the bias feature, one Ridge for each cell."""
    from sklearn.linear_model import Ridge

    accuracies = []
    tested, labels = test.features.numpy().astype(np.float64), test.labels.numpy()
    for seed in SEEDS:
        for shots in SHOTS:
            rows = choose(train.labels, train.classes, shots=shots, seed=seed)
            chosen = train.features[rows].numpy().astype(np.float64)
            mean, scale = chosen.mean(0), chosen.std(0) + 1e-5
            X, Z = (np.c_[(part - mean) / scale, np.full(len(part), 100.0)] for part in (chosen, tested))
            Y = 2 * np.eye(train.classes)[train.labels[rows]] - 1
            for l2 in L2:
                model = Ridge(alpha=l2, fit_intercept=False).fit(X, Y)
                accuracies.append(float((model.predict(Z).argmax(1) == labels).mean()))
    return accuracies


def seconds(work, *arguments):
    began = time.perf_counter()
    answer = work(*arguments)
    return time.perf_counter() - began, answer


def fewshot(tests: int) -> None:
    train, test = data(100 * 50, 768, 100, 0), data(tests, 768, 100, 1)
    few_shot(train, test, shots=[1], seeds=[0])  # the libraries' first calls are slower
    (fast, mine), (slow, theirs) = seconds(ours, train, test), seconds(scikit_learn, train, test)
    assert mine == theirs, "the accuracies differ"
    print(
        f"few-shot sweep, {len(mine)} cells, {tests:,} test images: vitrail {fast:.2f} s · scikit-learn {slow:.2f} s · "
        f"{slow / fast:.1f}×, equal"
    )


def knn() -> None:
    from vitrail.evaluation.knn import knn as nearest

    train, test = data(60_000, 384, 10, 0), data(10_000, 384, 10, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took, cells = seconds(nearest, train, test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"kNN 60,000 × 10,000 × 384: {took:.1f} s · peak {peak:.2f} GiB ({before:.2f} before, features included) · "
        f"{cells[0].accuracy:.2%} at k = {cells[0].k}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=["fewshot", "knn"])
    parser.add_argument("--test", type=int, default=10_000, help="test images of the few-shot sweep")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "fewshot" in arguments.which:
        fewshot(arguments.test)
    if "knn" in arguments.which:
        knn()


if __name__ == "__main__":
    main()
