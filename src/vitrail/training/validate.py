"""Between the steps of a run: the model is judged, the best weights are kept, and patience ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitrail.errors import DecodeError
from vitrail.reports.journal import Journal
from vitrail.reports.progress import Progress, show
from vitrail.scores.outcome import Headline, Outcome
from vitrail.training import outcome
from vitrail.training.ledger import unreadable
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup
from vitrail.training.state import State
from vitrail.weights.bundle import save_bundle
from vitrail.weights.trained_on import carry_trained_keys


@dataclass(frozen=True)
class Best:
    """The weights in best/, and what they scored on the images that chose them."""

    headline: Headline
    epoch: float
    folder: Path
    validation: bool
    """Whether validation images chose them; else the held-out images did, and the number flatters."""

    def __str__(self) -> str:
        chosen = "on the validation images" if self.validation else "chosen on these images, so it flatters"
        when = f"at epoch {self.epoch:.4g}" if self.epoch else "before the first step, with the fitted head"
        return f"{self.headline} {when}, {chosen}: {self.folder.as_posix()}"


def best_of(setup: Setup, state: State, folder: RunFolder, scores: Outcome) -> Best | None:
    """The best weights of a run that chose some."""
    if state.best_step < 0:
        return None
    headline = replace(scores.headline, value=state.best, interval=None)
    return Best(headline, setup.epochs(state.best_step), folder.best, setup.splits.val is not None)


def is_out_of_patience(setup: Setup, state: State) -> bool:
    """Whether the model was judged at this step and so many epochs brought no better score."""
    patience = setup.run.patience
    if patience is None or state.best_step < 0 or state.evaluated != state.step:
        return False
    return state.step - state.best_step >= max(1, round(patience * setup.steps_per_epoch))


def validate(
    setup: Setup, state: State, folder: RunFolder, journal: Journal, bar: Progress, watch: outcome.Watch = iter
) -> None:
    """Judges the model and keeps it: as best/ if its headline is the best so far, as last/ if no headline chooses."""
    objective = setup.run.objective
    learner = setup.whole(state.best_model)
    judged = outcome.judge(setup, objective.model_to_judge(learner), setup.splits.val or setup.splits.test, watch)
    scores, headline = judged.outcome, judged.outcome.headline
    state.evaluated = state.step
    list_unreadable(folder, bar, judged.unreadable)
    better = scores.chooses_best and (state.best_step < 0 or headline.is_better_than(state.best))
    if better:
        state.best, state.best_step = headline.value, state.step
    if scores.images:
        numbers = {f"held_out_{name}": value for name, value in scores.numbers.items() if name != "images"}
        journal.append({"step": state.step, "epoch": state.step / setup.steps_per_epoch, **numbers})
        say_scores(setup, state, bar, headline, better=better)
    if (better or not scores.chooses_best) and setup.world.leads:
        model = objective.model_of(learner)
        told = scores if scores.chooses_best else None
        record = outcome.make_record(model, setup.run, setup.splits.train, told, judged.calibration)
        place = folder.best if scores.chooses_best else folder.last
        save_bundle(place, model, record)
        carry_trained_keys(folder.path, place)


def say_scores(setup: Setup, state: State, bar: Progress, headline: Headline, *, better: bool) -> None:
    """A line that stays: epoch, loss, and the score with the name of the images it was measured on."""
    images = "validation" if setup.splits.val else "held_out"
    bar.update(state.step, **{images if headline.percent else f"{images}_{headline.name}": headline.value})
    epochs, total = map(setup.epochs, (state.step, setup.total_steps))
    loss = {name: value for name, value in bar.numbers.items() if name == "loss"}
    measured = f"{images.replace('_', '-')} {headline.name} {headline}"
    parts = [f"epoch {epochs:.4g} of {total:.4g}", show(loss), measured, "the best so far" if better else ""]
    bar.note(" · ".join(part for part in parts if part))


def list_unreadable(folder: RunFolder, bar: Progress, errors: Sequence[DecodeError]) -> None:
    """Images that could not be read are left out, never replaced: each is named once, in bad_samples.jsonl."""
    path = folder.path / "bad_samples.jsonl"
    for error in errors:
        if error.key not in unreadable(path):
            Journal(path).append({"key": error.key, "reason": error.reason})
            bar.note(f"left out: {error.found}")
