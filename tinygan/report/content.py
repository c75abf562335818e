"""What the report shows: figures, curves, gains by kind of face, faces that changed, false positives, the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygan.detections import GroundTruth
from tinygan.evaluate.attributes import VALUES, group_faces
from tinygan.evaluate.breakdown import break_down, compare_breakdowns
from tinygan.evaluate.fddb import BUDGETS, UNREACHED_NOTE, FddbResult
from tinygan.evaluate.groups import FEW_FACES, FEW_IMAGES, Estimate, GroupComparison
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.evaluate.wider import WiderResult, compare_wider
from tinygan.report import charts
from tinygan.report.faces import (
    Change,
    Found,
    Pictures,
    Scale,
    changes_of_boxes,
    changes_of_faces,
    costliest,
    most_changed,
    only_once,
)
from tinygan.report.page import (
    Section,
    chart,
    compare,
    facts,
    folded,
    grid,
    heading,
    page,
    paragraph,
    table,
)
from tinygan.second_stage.figures import SMALL_PX

TITLE = "What the second stage changed"
_MOST = 8  # faces of a kind
_ATTRIBUTES = ("height", "blur", "occlusion")
_KINDS = ("discrete", "continuous")  # scores of FDDB
_NO_TERMS = ("step", "seconds", "learning_rate")
_NONE, _NO_BREAK = "–", "\N{NO-BREAK SPACE}"
_INTERVALS = "95 % intervals by paired bootstrap over the pictures, 1,000 draws"


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Both lists against the annotated faces.

    Attributes:
        before: the evaluation of the first stage.
        after: the evaluation of both stages.
        truth: what was evaluated against.
        faces: the same faces with their attributes, if there are any.
        groups: recall by group of faces, if a table of groups was given.
        fddb: before and after by the protocol of FDDB, if the faces are FDDB's ellipses.
    """

    before: WiderResult
    after: WiderResult
    truth: EvaluationTruth
    faces: Mapping[str, GroundTruth]
    groups: GroupComparison | None = None
    fddb: tuple[FddbResult, FddbResult] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What a report is about.

    Attributes:
        before: detections of the first stage.
        after: detections of both stages, of the same images.
        judged: both against the annotated faces, if there are any.
        metrics: rows of a run's ``metrics.jsonl``.
        settings: names and values to end with.
        files: texts to end with, such as the run's config, by name.
        remarks: sentences on what is missing.
    """

    before: Found
    after: Found
    judged: Judged | None = None
    metrics: Sequence[Mapping[str, float]] = ()
    settings: Sequence[tuple[str, str]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def build_report(subject: Subject, pictures: Pictures) -> str:
    """The whole page as HTML."""
    sections = []
    judged = subject.judged
    if judged is not None:
        sections += [_precision(judged), _curves(judged)]
        sections += [] if judged.fddb is None else [_roc(*judged.fddb)]
        sections.append(_gains(judged))
        sections += [] if judged.groups is None else [_groups(judged.groups)]
    sections.append(_changes(subject, pictures))
    if judged is not None:
        sections.append(_false_positives(subject, judged, pictures))
    sections += [_run(subject.metrics)] if subject.metrics else []
    sections.append(_settings(subject))
    counts = [sum(map(len, found.values())) for found in (subject.before, subject.after)]
    lead = f"{len(subject.after):,} pictures, {counts[0]:,} boxes before and {counts[1]:,} after."
    if judged is None:
        lead += (
            " No annotated faces were given (--ground-truth), so this page shows only the boxes whose scores changed."
        )
    return page(TITLE, " ".join([lead, *subject.remarks]), sections)


def _precision(judged: Judged) -> Section:
    differences = compare_wider(judged.before, judged.after)
    rows = [["subset", "faces", "before", "after", "gain, 95 %"]]
    for name, change in differences.items():
        faces = f"{judged.after.subsets[name].faces:,}"
        rows.append(
            [name, faces, _ap(change.before), _ap(change.after), _change(change.value, change.low, change.high)]
        )
    note = f"Exact AP by the WIDER FACE protocol, gain in points (1/100); {_INTERVALS}."
    title = f"Average precision, {len(judged.after.names):,} pictures"
    return Section("precision", "Average precision", table(title, rows, note))


def _curves(judged: Judged) -> Section:
    drawn = []
    for name, after in judged.after.subsets.items():
        before = judged.before.subsets[name]
        said = f"{name}, {after.faces:,} faces: AP {_ap(before.ap_exact)} before, {_ap(after.ap_exact)} after"
        svg = charts.draw_precision_recall(before.exact, after.exact, f"Precision over recall, {said}")
        drawn.append(chart(svg, said))
    return Section("curves", "Precision and recall", grid(drawn))


def _roc(before: FddbResult, after: FddbResult) -> Section:
    sides = before.merged, after.merged
    rows = [["false positives", *(f"{kind} {side}" for kind in _KINDS for side in ("before", "after"))]]
    for budget in (100, *BUDGETS):
        curves = [getattr(side, kind).at(budget) for kind in _KINDS for side in sides]
        rows.append([f"{budget:,}", *(f"{one.tpr:.4f}{'' if one.reached else '*'}" for one in curves)])
    drawn = []
    for kind in _KINDS:
        first, second = (getattr(side, kind) for side in sides)
        most = int(np.clip(max(first.false_positives.max(initial=1), second.false_positives.max(initial=1)), 1, 2000))
        rates = " before, ".join(f"{curve.at(most).tpr:.4f}" for curve in (first, second))
        said = f"{kind}: true positive rate {rates} after, at {most:,} false positives"
        drawn.append(chart(charts.draw_roc(first, second, most, said), said))
    note = f"By the protocol of FDDB, {sides[0].images:,} pictures, {sides[0].faces:,} faces. {UNREACHED_NOTE}."
    return Section("roc", "ROC of FDDB", "\n".join([grid(drawn), table("True positive rate", rows, note)]))


def _gains(judged: Judged) -> Section:
    groups = group_faces(judged.truth.faces, {name: _with_attributes(one) for name, one in judged.faces.items()})
    groups = {name: groups[name] for name in _ATTRIBUTES}
    alone = EvaluationTruth(judged.truth.faces, {})  # without the subsets, which are shown above
    before, after = (break_down(result, alone, groups) for result in (judged.before, judged.after))
    differences = compare_breakdowns(before, after).groups
    parts = []
    for attribute, gains in differences.items():
        known = {value: gain for value, gain in gains.items() if after.groups[attribute][value].faces}
        if not known:
            continue
        title = f"Gain by {attribute}{' in pixels' if attribute == 'height' else ''}"
        rows = [[attribute, "faces", "before", "after", "gain, 95 %"]]
        for value, gain in known.items():
            faces = f"{after.groups[attribute][value].faces:,}"
            rows.append([value, faces, _ap(gain.before), _ap(gain.after), _change(gain.value, gain.low, gain.high)])
        svg = charts.draw_gains(list(known.items()), f"{title}; the table beside it has the figures")
        drawn = chart(svg, "Gain in points of AP, with 95 % intervals")
        parts += [heading(title), grid([drawn, table(f"AP by {attribute}", rows)], "wide")]
    note = f"Exact AP where only these faces count, among all valid ones; {_INTERVALS}. Few faces give wide intervals."
    return Section("gains", "Where the gain comes from", "\n".join([*parts, paragraph(note, note=True)]))


def _with_attributes(faces: GroundTruth) -> GroundTruth:
    """Faces whose unknown attributes have no value, as those of other data sets than WIDER FACE."""
    unknown = {name: np.full(len(faces), -1) for name in VALUES}
    return GroundTruth(faces.boxes, faces.invalid, {**unknown, **faces.fields})


def _groups(comparison: GroupComparison) -> Section:
    rows = [["faces of", "faces", "images", "before", "after", "gain, 95 %"]]
    for attribute, values in comparison.groups.items():
        for value, group in values.items():
            name = f"{attribute} {value}{'*' if group.is_small else ''}"
            row = [name, f"{group.faces:,}", f"{group.images:,}"]
            row += [_percent(one) for one in (group.before, group.after)]
            gain = group.difference
            rows.append([*row, _NONE if gain is None else _change(gain.value, gain.low, gain.high)])
    note = f"* fewer than {FEW_FACES} faces or {FEW_IMAGES} images: too few to conclude from; {_INTERVALS}."
    title = f"Recall in percent at precision {comparison.precision:g} on all valid faces"
    return Section("groups", "By group of faces", table(title, rows, note))


def _changes(subject: Subject, pictures: Pictures) -> Section:
    judged = subject.judged
    if judged is None:
        changes, what = changes_of_boxes(subject.before, subject.after), "boxes"
    else:
        changes, what = changes_of_faces(judged.before, judged.after, judged.truth), "faces"
    before, after = Scale(subject.before), Scale(subject.after)
    rose, fell = most_changed(changes, before, after)
    said = "Drag the slider, or move it with the arrow keys: bicubic interpolation lies to its left, super-resolution "
    said += "to its right. What super-resolution adds is a guess at what such faces look like, not what was there. "
    said += f"Crops wider than {SMALL_PX} px are shrunk to that first."
    parts = [paragraph(said)]
    if before.is_mapped or after.is_mapped:
        said = "Scores beyond 0 to 1 are mapped to that range where they are compared, and shown as they are."
        parts.append(paragraph(said, note=True))
    chosen = {"rose most": rose, "fell most": fell}
    if judged is not None:
        chosen |= dict(zip(("were found only after", "were found only before"), only_once(changes), strict=True))
    for number, (title, some) in enumerate(chosen.items()):
        parts.append(heading(f"{what.capitalize()} that {title}"))
        parts.append(
            paragraph(
                f"{len(some):,} of {len(changes):,} {what}{f', these {_MOST} first' if len(some) > _MOST else ''}."
            )
        )
        parts.append(_cards(some, pictures, f"change-{number}"))
    if judged is not None:
        said = "A face is found by a box of IoU 0.5 or more with it: one found only after may have had a box beside it."
        parts.append(paragraph(said, note=True))
    return Section("changes", f"{what.capitalize()} that changed most", "\n".join(parts))


def _false_positives(subject: Subject, judged: Judged, pictures: Pictures) -> Section:
    subset = list(judged.after.subsets)[-1]
    chosen = costliest(judged.after, subject.before, subject.after, 2 * _MOST)
    said = f"The boxes with the highest scores among the false positives of subset {subset}: they cost the most "
    said += "precision. Some are faces that nobody annotated."
    body = _cards(chosen, pictures, "false") if chosen else paragraph("There are none.")
    return Section("false-positives", "The costliest false positives", f"{paragraph(said)}\n{body}")


def _cards(changes: Sequence[Change], pictures: Pictures, key: str) -> str:
    """The first faces whose pictures can be read, each with its slider."""
    cards: list[str] = []
    for change in changes:
        if len(cards) == _MOST:
            break
        enlarged = pictures.enlarge(change)
        if enlarged is None:
            continue
        scores = f"{_score(change.before)} before, {_score(change.after)} after"
        caption = (
            f"{scores.capitalize()}. {change.kind.capitalize()}, {change.height_px:.0f} px high, in {change.image}"
        )
        name = f"{change.kind.capitalize()} in {change.image}"
        cards.append(compare(f"{key}-{len(cards) + 1}", *enlarged, name, caption))
    return grid(cards, "faces")


def _run(metrics: Sequence[Mapping[str, float]]) -> Section:
    drawn = []
    for term in {name: None for row in metrics for name in row if name not in _NO_TERMS}:
        points = np.array([(row["step"], row[term]) for row in metrics if "step" in row and term in row], np.float64)
        points = points[np.isfinite(points).all(axis=1)] if len(points) else points
        if len(points) < 2:
            continue
        steps, values = points.T
        said = f"{term}: {values[0]:.4g} at step {steps[0]:.0f}, {values[-1]:.4g} at step {steps[-1]:.0f}"
        drawn.append(chart(charts.draw_term(steps, values, said), said))
    body = grid(drawn) if drawn else paragraph("The run has not logged enough to draw.")
    return Section("run", "Training", body)


def _settings(subject: Subject) -> Section:
    parts = [facts("Settings and versions", subject.settings)]
    parts += [folded(name, content) for name, content in subject.files.items()]
    return Section("settings", "Settings and versions", "\n".join(parts))


def _ap(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else _NONE


def _change(value: float, low: float, high: float) -> str:
    """A difference in points and its interval, which a line may break between alone."""
    if not np.isfinite([value, low, high]).all():
        return _NONE
    return f"{100 * value:+.2f} [{100 * low:+.2f},{_NO_BREAK}{100 * high:+.2f}]"


def _percent(estimate: Estimate | None) -> str:
    return _NONE if estimate is None or not np.isfinite(estimate.value) else f"{100 * estimate.value:.1f}"


def _score(score: float | None) -> str:
    return "no box" if score is None else f"score {score:.3g}"
