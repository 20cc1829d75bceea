"""Telemetry of negatives of a query's own mined group, and of other groups, against dense float64 definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_telemetry import ENTRY, pairs, unit
from torch.nn import functional as F

from llave_hf.training.telemetry.groups import KINDS
from llave_hf.training.telemetry.hardness import Judge
from llave_hf.training.telemetry.report import summary
from llave_hf.training.telemetry.sample import gather, sample_pairs
from llave_hf.training.telemetry.telemetry import LOGGED_BY_GROUP, Telemetry
from llave_hf.training.telemetry.warnings import LONG, findings
from llave_hf.training.telemetry.weights import Weighting, weigh

TEMPERATURE, STRENGTH, SIZE = 0.1, 5.0, 64
# Groups of four of two tasks, both numbered from 0; the last eight rows are in none.
TASKS = torch.arange(SIZE) // 32
GROUPS = torch.where(torch.arange(SIZE) < 56, torch.arange(SIZE) % 32 // 4, -1)
OWN = (GROUPS[:, None] == GROUPS) & (TASKS[:, None] == TASKS) & (GROUPS >= 0) & ~torch.eye(SIZE, dtype=torch.bool)


def observed(*sides: torch.Tensor, **options: Any) -> Telemetry:
    telemetry = Telemetry(["a", "b"], by_group=True)
    given = {"group_ids": GROUPS, "task_ids": TASKS, "hardness_strength": STRENGTH, **options}
    telemetry.observe(*sides, temperature=TEMPERATURE, **given)
    return telemetry


def entry_of(telemetry: Telemetry) -> dict[str, Any]:
    telemetry.logs(1)
    return telemetry.history[0]


def defined(s: torch.Tensor, usable: torch.Tensor, explicit: torch.Tensor | None = None) -> dict[str, float]:
    """The numbers row by row; shares are the gradient of a dense cross entropy, which autograd gives.

    Args:
        s: `(N, N)` cosines; positives on the diagonal.
        usable: `(N, N)`, negatives that count.
        explicit: `(N, K)` cosines of rows' own negatives, all of which count.
    """
    eye, cosines = torch.eye(SIZE, dtype=torch.bool), s.clone().requires_grad_()
    logits = cosines / TEMPERATURE + (STRENGTH * s).masked_fill(eye, 0)
    logits = logits.masked_fill(~usable & ~eye, -math.inf)
    if explicit is not None:
        logits = torch.cat([logits, explicit / TEMPERATURE], 1)
    loss = F.cross_entropy(logits, torch.arange(SIZE), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, cosines)
    shares = gradient * TEMPERATURE
    whole = -float(shares.diagonal().sum())  # of a row, gradients add up to 0
    found = {
        "group_gradient_share": float(shares[OWN & usable].sum()) / whole,
        "group_share": float((OWN & usable).sum() / usable.sum()),
    }
    for kind, columns in zip(KINDS, (OWN, ~OWN & ~eye), strict=True):
        counted, effective, outscored = columns & usable, [], []
        for row in range(SIZE):
            weights = [math.exp(STRENGTH * float(x)) for x in s[row][counted[row]]]
            if weights:
                effective.append(sum(weights) ** 2 / sum(w * w for w in weights))
                outscored.append(bool((s[row][counted[row]] > s[row, row] + 0.1).any()))
        ordered = sorted(shares[counted].tolist(), reverse=True)
        take = 0.01 * len(ordered)
        top = sum(ordered[: int(take)]) + (take - int(take)) * ordered[int(take)]
        found |= {
            f"negatives_{kind}": int(counted.sum()) / SIZE,
            f"effective_negatives_{kind}": sum(effective) / len(effective),
            f"outscored_{kind}": sum(outscored) / len(outscored),
            f"masked_share_{kind}": 1 - int(counted.sum()) / int(columns.sum()),
            f"gradient_top1_{kind}": top / sum(ordered),
        }
    return found


def near(name: str, value: float) -> Any:
    """The top 1 % of few pairs is one or two of them, each known to half a bin."""
    return pytest.approx(value, rel=0, abs=value / 32 if "top1" in name else 3e-6)


def compare(telemetry: Telemetry, expected: dict[str, float]) -> None:
    entry = entry_of(telemetry)
    for name, value in expected.items():
        assert entry[name] == near(name, value), name
    assert {name for name in entry if "group" in name} == set(expected)


def test_the_numbers_are_those_of_their_definitions() -> None:
    queries, documents = pairs(SIZE, noise=0.9)
    s, others = queries @ documents.T, ~torch.eye(SIZE, dtype=torch.bool)
    telemetry = observed(queries, documents)
    by_task = [summary(telemetry._open, row) for row in range(2)]
    expected = defined(s, others)
    compare(telemetry, expected)
    assert expected["group_share"] == pytest.approx(56 * 3 / (SIZE * (SIZE - 1)))
    assert [task["negatives_own_group"] for task in by_task] == [3.0, 24 * 3 / 32]
    parts = sum(by_task[row]["negatives_own_group"] * 32 / SIZE for row in range(2))
    assert parts == pytest.approx(expected["negatives_own_group"])
    assert by_task[0]["group_gradient_share"] != by_task[1]["group_gradient_share"]


def test_what_the_loss_masks_is_masked_by_group() -> None:
    """Equal content, equal labels, both margins; and rows' own negatives, which are of no group, have a share."""
    queries, documents = pairs(SIZE, noise=0.9)
    s, others = queries @ documents.T, ~torch.eye(SIZE, dtype=torch.bool)
    document_ids, labels = torch.arange(SIZE) // 2 % 20, torch.arange(SIZE) % 9 - 1
    equal = document_ids[:, None] == document_ids
    same_label = (labels[:, None] == labels) & (labels >= 0)
    taught = pairs(SIZE, noise=1.5, seed=7)
    t = taught[0] @ taught[1].T
    limits = (t.diag() - 0.3 * t.diag().abs())[:, None]
    negatives = F.normalize(documents[:, None] + unit(SIZE, 2, 12, seed=3), dim=-1)
    cases: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor | None]] = [
        ({"document_ids": document_ids}, others & ~equal, None),
        ({"labels": labels}, others & ~same_label, None),
        ({"false_negative_margin": 0.0}, others & (s <= s.diag()[:, None]), None),
        (
            {"teacher": Judge(*taught), "teacher_margin": -0.3, "margin_strategy": "relative"},
            others & (t <= limits),
            None,
        ),
        ({"negative_embeddings": negatives}, others, (queries[:, None] * negatives).sum(-1)),
    ]
    plain = defined(s, others)
    for options, usable, explicit in cases:
        expected = defined(s, usable, explicit)
        if "false_negative_margin" in options:  # told of the pairs before the margin takes them out
            for kind in KINDS:
                del expected[f"outscored_{kind}"]
        elif "teacher" in options:
            assert int(usable.sum()) < 0.9 * int(others.sum())
        telemetry = observed(queries, documents, **options)
        entry = entry_of(telemetry)
        for name, value in expected.items():
            if not name.startswith("outscored") or "teacher" not in options:
                assert entry[name] == near(name, value), (options, name)
        assert abs(expected["group_gradient_share"] - plain["group_gradient_share"]) > 1e-3
        if explicit is None:
            total = 1 - int(usable.sum()) / int(others.sum())
            assert entry["masked_share"] == pytest.approx(total, abs=1e-5)


def test_off_is_what_it_was_and_on_changes_nothing_else() -> None:
    queries, documents = pairs(SIZE, noise=0.9)
    plain, off, on = Telemetry(["a", "b"]), Telemetry(["a", "b"]), Telemetry(["a", "b"], by_group=True)
    for telemetry, given in ((plain, {}), (off, {"group_ids": GROUPS}), (on, {"group_ids": GROUPS})):
        telemetry.observe(queries, documents, temperature=TEMPERATURE, task_ids=TASKS, **given)
    assert torch.equal(plain.state(), off.state())
    assert torch.equal(plain.state(), on.state()[: len(plain.state())])
    logs = plain.logs(1)
    assert logs == off.logs(1)
    with_groups = on.logs(1)
    assert set(with_groups) - set(logs) == set(LOGGED_BY_GROUP)
    assert logs == {name: value for name, value in with_groups.items() if name in logs}


def test_a_batch_without_groups_tells_nothing_of_them() -> None:
    telemetry = Telemetry(by_group=True)
    telemetry.observe(*pairs(8), temperature=TEMPERATURE)
    assert not any("group" in name for name in telemetry.logs(1))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_add_up_with_groups_that_lie_on_several(world: int) -> None:
    queries, documents = pairs(SIZE, noise=0.9)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))  # as token balance deals rows
    queries, documents, groups = queries[order], documents[order], torch.stack([GROUPS, TASKS], 1)[order]
    whole = gather(queries, documents, None, None, False, groups=groups)
    one, merged = (Telemetry(["a", "b"], by_group=True) for _ in range(2))
    for telemetry, parts in ((one, 1), (merged, world)):
        for rank in range(parts):
            rows = slice(rank * SIZE // parts, (rank + 1) * SIZE // parts)
            local = type(whole)(
                documents, queries.sum(0), whole.query_ids, whole.document_ids, rows.start, groups=whole.groups
            )
            sample = sample_pairs(queries[rows], documents[rows], local)
            part = Telemetry(["a", "b"], by_group=True)
            part._open.add(sample, Weighting(TEMPERATURE, STRENGTH), groups[rows, 1])
            telemetry.merge(part.state())
    assert one._open.groups is not None
    assert merged._open.groups is not None
    assert torch.equal(one._open.groups.sums[:, :4], merged._open.groups.sums[:, :4])
    for row in range(3):
        assert summary(merged._open, row) == pytest.approx(summary(one._open, row), abs=1e-6)
    assert one._open.groups.total("pairs_own_group") == 56 * 3


def test_a_run_goes_on_from_a_state_with_or_without_groups() -> None:
    queries, documents = pairs(SIZE, noise=0.9)
    whole, part, plain = (Telemetry(["a", "b"], by_group=by_group) for by_group in (True, True, False))

    def step(telemetry: Telemetry, number: int) -> dict[str, float]:
        telemetry.observe(queries, documents, temperature=0.05, task_ids=TASKS, group_ids=GROUPS)
        return telemetry.logs(number)

    step(whole, 1)
    step(part, 1)
    resumed, without, first = (Telemetry(["a", "b"], by_group=by_group) for by_group in (True, False, True))
    resumed.load_state_dict(part.state_dict())
    assert step(resumed, 2) == step(whole, 2)
    assert torch.equal(resumed.state_dict()["latest"], whole.state_dict()["latest"])
    without.load_state_dict(part.state_dict())
    step(plain, 1)
    assert step(without, 2) == step(plain, 2)
    first.load_state_dict(plain.state_dict())
    assert step(first, 3).keys() == step(whole, 3).keys()


def test_weights_of_all_negatives_add_up_to_those_of_their_kinds() -> None:
    queries, documents = pairs(SIZE, noise=0.9)
    sample = sample_pairs(queries, documents, gather(queries, documents, None, None, False))
    weights = weigh(sample, Weighting(TEMPERATURE, STRENGTH))
    assert torch.equal(sample.others, ~torch.eye(SIZE, dtype=torch.bool))
    counts = observed(queries, documents)._open.groups
    assert counts is not None
    assert counts.total("gradient") == pytest.approx(float(weights.log_shares.exp()[sample.others].sum()), abs=1e-4)
    both = counts.total("gradient_own_group") + counts.total("gradient_other_groups")
    assert both == pytest.approx(counts.total("gradient"), abs=1e-3)


GROUPED = {
    **ENTRY,
    "masked_share_own_group": 0.02,
    "masked_share_other_groups": 0.01,
    "outscored_own_group": 0.05,
    "group_gradient_share": 0.6,
}
RISING = {"auc": [0.8 + 0.01 * log for log in range(LONG)], "outscored": [0.2 - 0.01 * log for log in range(LONG)]}


@pytest.mark.parametrize(
    ("name", "sick", "healthy"),
    [
        ("masked groups", {"masked_share_own_group": [0.3] * LONG}, {"masked_share_own_group": [0.2] * LONG}),
        (
            "masked groups",
            {"masked_share_own_group": [0.3] * LONG},
            {"masked_share_own_group": [0.3] * LONG, "masked_share_other_groups": [0.2] * LONG},
        ),
        (
            "masked groups",
            {"masked_share_own_group": [0.3] * LONG},
            {"masked_share_own_group": [0.3] * (LONG - 1) + [0.1]},
        ),
        (
            "false negatives in groups",
            {**RISING, "outscored_own_group": [0.2] * LONG},
            {**RISING, "outscored_own_group": [0.3 - 0.01 * log for log in range(LONG)]},
        ),
        (
            "false negatives in groups",
            {**RISING, "outscored_own_group": [0.2] * LONG},
            {**RISING, "outscored_own_group": [0.08] * LONG},
        ),
        (
            "false negatives in groups",
            {**RISING, "outscored_own_group": [0.2] * LONG},
            {"auc": [0.8] * LONG, "outscored_own_group": [0.2] * LONG},
        ),
    ],
)
def test_each_rule_of_groups_needs_all_of_its_signs(
    name: str, sick: dict[str, list[float]], healthy: dict[str, list[float]]
) -> None:
    def told(courses: dict[str, list[float]], logs: int = LONG) -> list[str]:
        return list(findings([{**GROUPED, **{key: courses[key][log] for key in courses}} for log in range(logs)]))

    assert told(sick) == [name]
    assert told(healthy) == []
    assert told(sick, LONG - 1) == []


def test_groups_that_hold_answers_twice_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: two rows of each group of four have one document."""
    messages: list[str] = []
    monkeypatch.setattr("llave_hf.training.telemetry.telemetry.logger.warning", messages.append)
    for shared in (False, True):
        telemetry = Telemetry(by_group=True)
        ids = torch.arange(SIZE) // (2 if shared else 1)
        for step in range(LONG):
            sides = pairs(SIZE, 64, noise=0.9, seed=step, level=1.2)
            telemetry.observe(*sides, temperature=0.05, document_ids=ids, group_ids=torch.arange(SIZE) // 4)
            telemetry.logs(step)
        assert list(telemetry.told) == (["masked groups"] if shared else [])
    assert len(messages) == 1
    assert "33% of what a query meets in its own group is masked" in messages[0]
    assert "(0% in other groups)" in messages[0]


def test_the_report_has_the_groups_and_their_plot(tmp_path: Path) -> None:
    for by_group in (False, True):
        telemetry = Telemetry(["a", "b"], by_group=by_group)
        for step in range(14):  # a task is told with 200 positives
            telemetry.observe(*pairs(SIZE, seed=step), temperature=0.05, task_ids=TASKS, group_ids=GROUPS)
            if step % 7 == 6:
                telemetry.logs(step)
        telemetry.save(tmp_path / str(by_group))
        report = json.loads((tmp_path / str(by_group) / "telemetry.json").read_text())
        assert ("group_gradient_share" in report["latest"]) == by_group
        assert (tmp_path / str(by_group) / "telemetry_groups.png").exists() == by_group
    assert report["latest"]["group_gradient_share"] == telemetry.history[-1]["group_gradient_share"]
    assert report["tasks"]["b"]["masked_share_own_group"] == 0
