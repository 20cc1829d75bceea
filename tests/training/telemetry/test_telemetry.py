"""Telemetry against its definitions, written out in float64; over ranks, resumed, and on planted trouble."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "distributed"))

from forked_ranks import run_ranks

from llave_hf import distributed
from llave_hf.evaluation.scoring import histograms
from llave_hf.training.telemetry.counts import PairCounts
from llave_hf.training.telemetry.hardness import Judge
from llave_hf.training.telemetry.integers import top_share
from llave_hf.training.telemetry.report import summary
from llave_hf.training.telemetry.sample import gather, sample_pairs, sampled_rows
from llave_hf.training.telemetry.telemetry import Telemetry
from llave_hf.training.telemetry.warnings import findings
from llave_hf.training.telemetry.weights import Weighting

TEMPERATURE, STRENGTH = 0.1, 3.0


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def pairs(
    size: int, dim: int = 12, *, noise: float = 0.2, seed: int = 0, level: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and documents: a common direction (`level` makes all alike), and noise between the two of a pair."""
    base = unit(size, dim, seed=seed) + level * unit(dim, seed=999)
    return F.normalize(base, dim=-1), F.normalize(base + noise * unit(size, dim, seed=seed + 1), dim=-1)


def defined(
    similarities: torch.Tensor, usable: torch.Tensor, own: torch.Tensor, hardness_of: torch.Tensor | None = None
) -> dict[str, float]:
    """The numbers of one batch, row by row; `own` are the columns of the positives, hardness is s if not given."""
    judged = similarities if hardness_of is None else hardness_of
    positives, hard, easy, gradient, hardness, shares = [], [], [], [], [], []
    outscored = outscoring = 0
    for row, column in enumerate(own.tolist()):
        positive = float(similarities[row, column])
        negatives = sorted(similarities[row][usable[row]].tolist())
        positives.append(positive)
        hard += negatives[-5:]
        easy += negatives[:5]
        above = sum(value > positive + 0.1 for value in negatives)
        outscoring += above
        outscored += above > 0
        if negatives:
            seen = zip(similarities[row][usable[row]].tolist(), judged[row][usable[row]].tolist(), strict=True)
            logs = [(s / TEMPERATURE, STRENGTH * h) for s, h in seen]
            alone = [math.exp(weight) for _, weight in logs]
            weights = [math.exp(logit + weight) for logit, weight in logs]
            hardness.append(sum(alone) ** 2 / sum(w * w for w in alone))
            gradient.append(sum(weights) ** 2 / sum(w * w for w in weights))
            z = math.exp(positive / TEMPERATURE) + sum(weights)
            shares += [w / z for w in weights]
    shares.sort(reverse=True)
    wins = sum((p > h) + 0.5 * (p == h) for p in positives for h in hard)
    take = 0.01 * len(shares)
    top = sum(shares[: int(take)]) + (take - int(take)) * shares[int(take)]
    return {
        "queries": len(positives),
        "positive": sum(positives) / len(positives),
        "hard": sum(hard) / len(hard),
        "easy": sum(easy) / len(easy),
        "gap_hard": sum(positives) / len(positives) - sum(hard) / len(hard),
        "gap_easy": sum(positives) / len(positives) - sum(easy) / len(easy),
        "auc": wins / len(positives) / len(hard),
        "negatives": int(usable.sum()) / len(positives),
        "effective_negatives": sum(hardness) / len(hardness),
        "gradient_negatives": sum(gradient) / len(gradient),
        "gradient_top1": top / sum(shares),
        "outscored": outscored / len(hardness),
        "outscoring": outscoring / int(usable.sum()),
        "masked_share": 1 - int(usable.sum()) / (len(positives) * (similarities.shape[1] - 1)),
        "hardness_strength": STRENGTH,
    }


# Half a bin of 0.002; one bin of 1/16 in the logarithm, of one pair in many; units of 2^-20.
TOLERANCES = {
    **dict.fromkeys(("positive", "hard", "easy", "gap_hard", "gap_easy"), 1e-3),
    "auc": 2e-3,
    "gradient_top1": 5e-3,
}


def compare(found: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCES.get(name, 3e-6), rel=0), name


def observed(queries: torch.Tensor, documents: torch.Tensor, **options: Any) -> Telemetry:
    telemetry = Telemetry(options.pop("tasks", ()))
    telemetry.observe(queries, documents, temperature=TEMPERATURE, hardness_strength=STRENGTH, **options)
    return telemetry


def test_a_step_has_the_numbers_of_their_definitions() -> None:
    queries, documents = pairs(60, noise=0.9)
    telemetry = observed(queries, documents)
    logs = telemetry.logs(1)
    expected = defined(queries @ documents.T, ~torch.eye(60, dtype=torch.bool), torch.arange(60))
    compare(telemetry.history[0], expected)
    assert 0.05 < expected["outscored"] < 0.95
    for side in (queries, documents):
        cosines = side @ side.T
        expected[f"{len(expected)}"] = float((cosines.sum() - 60) / (60 * 59))
    random = max(list(expected.values())[-2:])
    assert logs["random_cosine"] == pytest.approx(random, abs=1e-6)
    for name in ("gap_hard", "gap_easy", "auc", "effective_negatives", "gradient_negatives", "gradient_top1"):
        assert logs[name] == telemetry.history[0][name]


def test_forms_of_the_loss_have_their_own_shares() -> None:
    """Relative to the positive; Focal-InfoNCE; a relative margin: each against the loss's own gradient at cosines."""
    queries, documents = pairs(60, noise=0.9)
    others = unit(60, 5, seed=8), unit(60, 5, seed=9)
    s, h, eye = queries @ documents.T, others[0] @ others[1].T, torch.eye(60, dtype=torch.bool)
    limits = (s.diag() - 0.1 * s.diag().abs())[:, None]
    forms: dict[str, tuple[dict[str, Any], Any, torch.Tensor]] = {
        "relative": (
            {"judge": Judge(*others), "relative": True, "max_weight": 2.0, "hardness_strength": 9.0},
            lambda c: c / TEMPERATURE + (9 * (h - h.diag()[:, None])).clamp(max=math.log(2)).masked_fill(eye, 0),
            ~eye,
        ),
        "focal": (
            {"hardness_strength": 0.0, "focal_margin": 0.3},
            lambda c: torch.where(eye, c * c, c * (c + 0.3)) / TEMPERATURE,
            ~eye,
        ),
        "margin": (
            {"false_negative_margin": -0.1, "margin_strategy": "relative"},
            lambda c: c / TEMPERATURE + (STRENGTH * c.detach()).masked_fill(eye, 0),
            ~eye & (s <= limits),
        ),
    }
    for options, logits_of, usable in forms.values():
        cosines = s.clone().requires_grad_()
        logits = logits_of(cosines).masked_fill(~usable & ~eye, -math.inf)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.arange(60), reduction="sum"), cosines)
        shares = sorted((gradient.abs() * TEMPERATURE)[usable].tolist(), reverse=True)
        take = 0.01 * len(shares)
        top = sum(shares[: int(take)]) + (take - int(take)) * shares[int(take)]
        telemetry = Telemetry()
        settings = {"temperature": TEMPERATURE, "hardness_strength": STRENGTH, **options}
        telemetry.observe(queries, documents, **settings)
        telemetry.logs(1)
        assert telemetry.history[0]["gradient_top1"] == pytest.approx(top / sum(shares), abs=5e-3)
        assert telemetry.history[0]["masked_share"] == pytest.approx(1 - usable.sum().item() / (60 * 59), abs=1e-5)
        plain = Telemetry()
        for form in ("relative", "focal_margin", "margin_strategy"):
            settings.pop(form, None)
        plain.observe(queries, documents, **settings)
        plain.logs(1)
        assert abs(plain.history[0]["gradient_top1"] - top / sum(shares)) > 0.01


def test_hardness_is_whose_word_counts() -> None:
    """A teacher's cosines, or the data's numbers, in place of the model's own cosines."""
    queries, documents = pairs(60, noise=0.9)
    others, usable = (unit(60, 5, seed=8), unit(60, 5, seed=9)), ~torch.eye(60, dtype=torch.bool)
    numbers = torch.linspace(-0.5, 1, 60, dtype=torch.float64)
    judges = {
        Judge(queries=others[0], documents=others[1]): others[0] @ others[1].T,
        Judge(document_hardness=numbers): numbers.expand(60, -1),
    }
    for judge, hardness in judges.items():
        telemetry = observed(queries, documents, judge=judge)
        telemetry.logs(1)
        compare(telemetry.history[0], defined(queries @ documents.T, usable, torch.arange(60), hardness))


def test_equal_content_and_margins_are_left_out() -> None:
    queries, documents = pairs(40, noise=2.0)
    query_ids, document_ids = torch.arange(40) % 17, 100 + torch.arange(40) % 23
    similarities = queries @ documents.T
    usable = (query_ids[:, None] != query_ids) & (document_ids[:, None] != document_ids)
    expected = defined(similarities, usable, torch.arange(40))
    telemetry = observed(queries, documents, query_ids=query_ids, document_ids=document_ids)
    telemetry.logs(1)
    compare(telemetry.history[0], expected)
    assert expected["masked_share"] > 0.05

    within = usable & (similarities <= (similarities.diagonal() + 0.2)[:, None])
    assert 0 < int(within.sum()) < int(usable.sum())
    telemetry = observed(queries, documents, query_ids=query_ids, document_ids=document_ids, false_negative_margin=0.2)
    telemetry.logs(1)
    masked = defined(similarities, within, torch.arange(40))
    # What would outscore is told of the pairs before the margin takes them out.
    masked["outscored"] = expected["outscored"]
    masked["outscoring"] = expected["outscoring"] * int(usable.sum()) / int(within.sum())
    compare(telemetry.history[0], masked)


def test_random_cosine_leaves_equal_content_out() -> None:
    base = unit(6, 5)
    documents = base[[0, 1, 2, 3, 4, 5, 0, 0]]
    telemetry = observed(unit(8, 5, seed=3), documents, document_ids=torch.tensor([0, 1, 2, 3, 4, 5, 0, 0]))
    counts = telemetry._open
    cosines = base[[0, 1, 2, 3, 4, 5, 0, 0]] @ documents.T
    different = torch.tensor([[a != b for b in (0, 1, 2, 3, 4, 5, 0, 0)] for a in (0, 1, 2, 3, 4, 5, 0, 0)])
    found = counts.total("document_cosine") / counts.total("document_pairs")
    assert found == pytest.approx(float(cosines[different].mean()), abs=1e-6)


def test_explicit_negatives_are_of_their_own_query_with_their_own_strength() -> None:
    queries, documents = pairs(30, noise=0.9)
    negatives = F.normalize(documents[:, None] + 0.5 * unit(30, 3, 12, seed=7), dim=-1)
    mask = torch.arange(3)[None] < torch.arange(30)[:, None] % 4
    negative_ids = torch.arange(90).view(30, 3)
    document_ids = 1000 + torch.arange(30)
    negative_ids[2, 0] = document_ids[2]  # its own positive
    telemetry = observed(
        queries,
        documents,
        document_ids=document_ids,
        negative_embeddings=negatives,
        negative_ids=negative_ids,
        negative_mask=mask,
        explicit_hardness_strength=STRENGTH,
    )
    telemetry.logs(1)
    usable = mask.clone()
    usable[2, 0] = False
    similarities = torch.cat([queries @ documents.T, (queries[:, None] * negatives).sum(-1)], 1)
    expected = defined(similarities, torch.cat([~torch.eye(30, dtype=torch.bool), usable], 1), torch.arange(30))
    compare(telemetry.history[0], expected)

    plain = observed(
        queries, documents, negative_embeddings=negatives, negative_mask=torch.ones(30, 3), max_weight=1.5
    )
    plain.logs(1)
    logs = (STRENGTH * queries @ documents.T).clamp(max=math.log(1.5)).fill_diagonal_(-math.inf).exp()
    weights = torch.cat([logs, torch.ones(30, 3, dtype=torch.float64)], 1)
    effective = (weights.sum(1) ** 2 / (weights**2).sum(1)).mean()
    assert plain.history[0]["effective_negatives"] == pytest.approx(float(effective), abs=3e-6)


def test_temperature_and_strength_of_each_row() -> None:
    queries, documents = pairs(20)
    telemetry = Telemetry()
    temperature, strength = torch.linspace(0.05, 0.2, 20), torch.linspace(0, 9, 20)
    telemetry.observe(queries, documents, temperature=temperature, hardness_strength=strength)
    slope = (1 / temperature + strength).double()[:, None]
    weights = (slope * (queries @ documents.T)).fill_diagonal_(-math.inf).exp()
    telemetry.logs(1)
    effective = (weights.sum(1) ** 2 / (weights**2).sum(1)).mean()
    assert telemetry.history[0]["gradient_negatives"] == pytest.approx(float(effective), abs=3e-6)


def test_the_top_share_interpolates_and_is_one_where_one_pair_has_all() -> None:
    counts = PairCounts(0)
    counts.shares[1024], counts.shares[0] = 1, 99
    assert top_share(counts.shares) == 1.0
    counts.shares.zero_()
    assert top_share(counts.shares) is None
    counts.shares[900] = 1000  # all alike: the top 1 % have 1 %
    assert top_share(counts.shares) == pytest.approx(0.01)


def test_overlap_and_auc_have_the_values_of_two_normal_distributions() -> None:
    """Of two with distance d: overlap 2Φ(-d/2), AUC Φ(d/√2). Also of few samples, where fine bins would say 0."""

    def normal(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    for spread, size, tolerance in ((0.1, 200_000, 0.01), (0.01, 200_000, 0.015), (0.1, 300, 0.09)):
        for distance in (0.0, 1.0, 2.5):
            generator = torch.Generator().manual_seed(1)
            values = torch.randn(6, size, generator=generator, dtype=torch.float64) * spread
            positives = torch.bincount(
                histograms.bin_numbers(values[0] + distance * spread), minlength=histograms.BINS
            )
            hard = torch.bincount(histograms.bin_numbers(values[1:].reshape(-1)), minlength=histograms.BINS)
            assert histograms.overlap(positives, hard) == pytest.approx(2 * normal(-distance / 2), abs=tolerance)
            assert histograms.auc(positives, hard) == pytest.approx(normal(distance / math.sqrt(2)), abs=tolerance)
            assert histograms.mean(positives) == pytest.approx(distance * spread, abs=spread * 4 / math.sqrt(size))


def test_outer_cosines_are_counted() -> None:
    assert histograms.bin_numbers(torch.tensor([-1.0001, -1.0, 1.0, 1.0001])).tolist() == [0, 0, 999, 999]
    queries = unit(6, 4)
    telemetry = observed(queries, queries)
    assert int(telemetry._open.cosines[-1, 0].sum()) == 6


def add_rank(
    counts: PairCounts, data: tuple[torch.Tensor, torch.Tensor], ids: torch.Tensor, rank: int, world: int
) -> None:
    """What rank `rank` of `world` counts of a batch."""
    queries, documents = data
    rows = slice(rank * len(queries) // world, (rank + 1) * len(queries) // world)
    whole = gather(queries, documents, ids, ids, False)
    local = type(whole)(documents, queries.sum(0), ids, ids, rows.start)
    sample = sample_pairs(queries[rows], documents[rows], local)
    counts.add(sample, Weighting(TEMPERATURE, STRENGTH), (torch.arange(len(ids)) % 3)[rows])


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("size", [24, 600])
def test_ranks_add_up_to_one_rank_on_the_concatenated_batch(world: int, size: int) -> None:
    data, ids = pairs(size, noise=0.9), torch.arange(size) // 2
    one, merged = Telemetry(["a", "b", "c"]), Telemetry(["a", "b", "c"])
    add_rank(one._open, data, ids, 0, 1)
    for rank in range(world):
        part = Telemetry(["a", "b", "c"])
        add_rank(part._open, data, ids, rank, world)
        assert 0 < part._open.total("queries") < one._open.total("queries")
        merged.merge(part.state())
    amounts = (one._open.sums - merged._open.sums).abs().max()
    assert int(amounts) <= 64  # of sums in units of 2^-20: products of other shapes round otherwise
    assert torch.equal(one._open.cosines, merged._open.cosines)
    for row in range(4):
        found, expected = summary(merged._open, row), summary(one._open, row)
        assert found == pytest.approx(expected, abs=1e-6)
        assert expected["queries"] > 0


def test_at_most_128_rows_are_looked_at_and_the_same_on_any_number_of_ranks() -> None:
    for whole in (1, 7, 128, 129, 1000, 1024, 8192, 65536):
        one = list(range(whole))[sampled_rows(whole, whole, 0)]
        assert min(16, whole) <= len(one) <= 128
        assert len(one) * whole <= max(2**18, 16 * whole)
        for world in (2, 4):
            if whole % world == 0:
                size = whole // world
                parts = [
                    start + row
                    for start in range(0, whole, size)
                    for row in list(range(size))[sampled_rows(size, whole, start)]
                ]
                assert parts == one


def run_steps(telemetry: Telemetry, steps: range) -> list[dict[str, float]]:
    logs = []
    for step in steps:
        queries, documents = pairs(64, noise=0.9, seed=step)
        telemetry.observe(queries, documents, temperature=0.05, hardness_strength=9.0, task_ids=step % 2)
        if step % 5 == 4:
            logs.append(telemetry.logs(step))
    return logs


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    straight, before, after = (Telemetry(["a", "b"], every=2) for _ in range(3))
    logs = run_steps(straight, range(40))
    first = run_steps(before, range(17))  # in the middle of a stretch
    torch.save(before.state_dict(), tmp_path / "telemetry.pt")
    run_steps(before, range(17, 23))  # what is saved is no view of what goes on
    after.load_state_dict(torch.load(tmp_path / "telemetry.pt", weights_only=True))
    assert first + run_steps(after, range(17, 40)) == logs
    assert len(logs) == 8
    assert any("overlap_a" in entry for entry in logs)
    one, other = straight.state_dict(), after.state_dict()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name
    assert one["history"]


def test_a_checkpoint_of_two_ranks_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = observed(*pairs(8)).state_dict()
    total = 0
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        resumed = Telemetry()
        resumed.load_state_dict(state)
        total += resumed.state()
    assert torch.equal(total, state["open"])


def test_state_of_other_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of the tasks a, this run has b"):
        Telemetry(["b"]).load_state_dict(Telemetry(["a"]).state_dict())
    with pytest.raises(ValueError, match="the state has"):
        Telemetry(["b"]).merge(Telemetry().state())


def test_a_task_is_told_when_it_has_enough_positives_and_then_begins_anew() -> None:
    telemetry = Telemetry(["often", "seldom"])
    told = []
    for step in range(12):
        queries, documents = pairs(64, noise=0.9 if step % 6 else 0.3, seed=step)
        telemetry.observe(queries, documents, temperature=0.05, task_ids=0 if step % 6 else 1)
        if step % 3 == 2:
            logs = telemetry.logs(step)
            told.append(sorted(name for name in logs if name.startswith("overlap_")))
    assert told == [[], ["overlap_often"], [], ["overlap_often"]]  # after 128, 320, 128, 320
    assert telemetry._open.total("queries", 1) == 128
    assert telemetry._open.total("queries") == 0


def test_tasks_of_a_mixed_batch() -> None:
    queries, documents = pairs(90, noise=0.9)
    ids = torch.arange(90) % 2
    telemetry = observed(queries, documents, tasks=["a", "b"], task_ids=ids)
    similarities, others = queries @ documents.T, ~torch.eye(90, dtype=torch.bool)
    for row in range(2):
        mine = ids == row
        expected = defined(similarities[mine], others[mine], torch.arange(90)[mine])
        del expected["gradient_top1"]  # of all together only
        compare(summary(telemetry._open, row), expected)


def test_nothing_is_told_of_nothing_and_one_pair_has_no_negatives() -> None:
    telemetry = Telemetry()
    assert telemetry.logs(1) == {}
    telemetry.observe(*pairs(1), temperature=0.1)
    logs = telemetry.logs(1)
    assert "gap_hard" not in logs
    assert logs["masked_share"] == 0


def test_embeddings_get_no_gradient_and_half_precision_is_looked_at_in_float32() -> None:
    queries, documents = (x.to(torch.bfloat16).requires_grad_() for x in pairs(32))
    telemetry = Telemetry()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        telemetry.observe(queries, documents, temperature=0.1)
    expected = (queries.detach().double() * documents.detach().double()).sum(1)
    telemetry.logs(1)
    assert telemetry.history[0]["positive"] == pytest.approx(float(expected.mean()), abs=1e-3)
    exact = Telemetry()
    exact.observe(queries.detach().float(), documents.detach().float(), temperature=0.1)
    exact.logs(1)
    assert exact.history == telemetry.history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_ids": 2}, "task 2 is none of the 2 tasks"),
        ({"task_ids": torch.zeros(3, dtype=torch.long)}, "give a number for each of 8 queries"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        observed(*pairs(8), tasks=["a", "b"], **options)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="every is 0"):
        Telemetry(every=0)
    with pytest.raises(ValueError, match="a name twice"):
        Telemetry(["a", "a"])


def train(size: int, stages: list[dict[str, Any]], strength: float = 9.0, **options: Any) -> Telemetry:
    """A run whose batches are made, a log for each stage."""
    telemetry = Telemetry(**options)
    for step, stage in enumerate(stages):
        for repeat in range(4):
            plant = stage.get("plant")
            queries, documents = pairs(
                size,
                stage.get("dim", 64),
                seed=100 * step + repeat,
                noise=stage["noise"],
                level=stage.get("level", 0.0),
            )
            if plant is not None:
                queries, documents = plant(queries, documents)
            telemetry.observe(queries, documents, temperature=0.02, hardness_strength=strength)
        telemetry.logs(step)
    return telemetry


def planted_false_negatives(queries: torch.Tensor, documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every four pairs, the second answers the first one's query, too, and better."""
    queries, documents = queries.clone(), documents.clone()
    count = len(queries[0::4])
    queries[1::4] = F.normalize(queries[0::4] + 0.3 * unit(count, 64, seed=5), dim=-1)
    documents[1::4] = F.normalize(queries[0::4] + 0.3 * unit(count, 64, seed=6), dim=-1)
    documents[0::4] = F.normalize(queries[0::4] + 1.5 * unit(count, 64, seed=7), dim=-1)
    return queries, documents


HEALTHY = [{"noise": noise, "level": 1.2} for noise in (2.0, 1.5, 1.2, 1.0, 0.9, 0.8)]


@pytest.mark.parametrize(
    ("size", "stages", "options", "name", "word"),
    [
        (64, [{"noise": 0.2, "level": 8.0}] * 4, {}, "collapse", "lower learning_rate"),
        (64, [{"noise": 0.1}] * 4, {}, "trivial negatives", "llave mine"),
        (
            128,
            [{"noise": 1.8 - 0.06 * log, "level": 0.5, "plant": planted_false_negatives} for log in range(12)],
            {},
            "false negatives",
            "false_negative_margin: 0.1",
        ),
        (4, [{"noise": 0.9, "level": 0.5}] * 4, {"strength": 30.0}, "few effective negatives", "larger batches"),
        (64, HEALTHY, {"gradient_accumulation_steps": 8}, "accumulation", "per_device_train_batch_size"),
    ],
)
def test_planted_trouble_is_told_once_with_what_to_do(
    size: int,
    stages: list[dict[str, Any]],
    options: dict[str, Any],
    name: str,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("llave_hf.training.telemetry.telemetry.logger.warning", messages.append)
    telemetry = train(size, stages, **options)
    assert list(telemetry.told) == [name]
    assert len(messages) == 1
    assert word.lower() in messages[0].lower()

    resumed = Telemetry()
    resumed.load_state_dict(telemetry.state_dict())
    resumed.observe(*pairs(size), temperature=0.02, hardness_strength=9.0)
    resumed.logs(99)
    assert len(messages) == 1


def test_healthy_runs_are_left_alone() -> None:
    """Also one that starts with everything alike, as a language model does, and gets out of it."""
    assert train(128, HEALTHY).told == {}
    leaving = [{"noise": 1.0, "level": level} for level in (8.0, 6.0, 4.0, 3.0, 2.0)]
    telemetry = train(128, leaving)
    assert telemetry.history[0]["random_cosine"] > 0.95
    assert telemetry.told == {}
    assert train(4, [{"noise": 0.9, "level": 0.5}] * 4, strength=0.0).told == {}
    spreading = [
        {"noise": 2.2 - (log / 30) ** 0.5, "level": 2.5 * (1 - log / 30) ** 2, "dim": 24} for log in range(30)
    ]
    telemetry = train(128, spreading)
    assert max(entry["outscored"] for entry in telemetry.history[:10]) > 0.3  # it has not learned yet
    assert telemetry.history[-1]["auc"] > 0.9
    assert telemetry.told == {}


ENTRY = {
    "auc": 0.9,
    "hard": 0.5,
    "positive": 0.8,
    "random_cosine": 0.1,
    "outscored": 0.2,
    "outscoring": 0.01,
    "effective_negatives": 20.0,
    "negatives": 63.0,
    "queries": 640.0,
    "hardness_strength": 9.0,
}


def told_of(**courses: list[float]) -> list[str]:
    length = len(next(iter(courses.values())))
    return list(
        findings([{**ENTRY, **{name: course[log] for name, course in courses.items()}} for log in range(length)])
    )


@pytest.mark.parametrize(
    ("name", "sick", "healthy"),
    [
        ("collapse", {"random_cosine": [0.97] * 3}, {"random_cosine": [0.98, 0.97, 0.96]}),
        ("collapse", {"random_cosine": [0.97] * 3}, {"random_cosine": [0.97, 0.94, 0.97]}),
        (
            "trivial negatives",
            {"auc": [1.0] * 3, "hard": [0.2] * 3},
            {"auc": [1.0, 0.998, 1.0], "hard": [0.2] * 3},
        ),
        (
            "trivial negatives",
            {"auc": [1.0] * 3, "hard": [0.2] * 3},
            {"auc": [1.0] * 3, "hard": [0.2] * 3, "queries": [60.0] * 3},
        ),
        (
            "false negatives",
            {"auc": [0.8 + 0.01 * log for log in range(10)]},
            {"auc": [0.8 + 0.01 * log for log in range(10)], "outscored": [0.3 - 0.01 * log for log in range(10)]},
        ),
        (
            "false negatives",
            {"auc": [0.76 + 0.01 * log for log in range(10)]},
            {"auc": [0.7 + 0.01 * log for log in range(10)]},
        ),
        ("false negatives", {"auc": [0.8 + 0.01 * log for log in range(10)]}, {"auc": [0.8] * 10}),
        (
            "few effective negatives",
            {"effective_negatives": [2.0] * 3},
            {"effective_negatives": [2.0] * 3, "hardness_strength": [0.0] * 3},
        ),
        (
            "few effective negatives",
            {"effective_negatives": [1.4] * 3, "negatives": [3.0] * 3},
            {"effective_negatives": [2.0] * 3, "negatives": [2.0] * 3},
        ),
    ],
)
def test_each_rule_needs_all_of_its_signs(
    name: str, sick: dict[str, list[float]], healthy: dict[str, list[float]]
) -> None:
    assert told_of(**sick) == [name]
    assert told_of(**healthy) == []
    assert told_of(**{key: course[:2] for key, course in sick.items()}) == []


def test_the_report_holds_the_start_and_the_end(tmp_path: Path) -> None:
    telemetry = Telemetry(["scenes", "text / odd name"])
    run_steps(telemetry, range(30))
    telemetry.save(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "telemetry.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in report["history"]] == [4, 9, 14, 19, 24, 29]
    assert report["latest"]["gap_hard"] == telemetry.history[-1]["gap_hard"]
    assert report["first"]["gap_hard"] == telemetry.history[0]["gap_hard"]
    assert sum(report["latest"]["histograms"]["positive"]) == 5 * 64
    assert len(report["latest"]["histograms"]["edges"]) == len(report["latest"]["histograms"]["hard"]) + 1
    assert set(report["tasks"]) == {"scenes", "text / odd name"}
    for name in ("similarities", "steps", "tasks"):
        image = (tmp_path / "out" / f"telemetry_{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")


def test_nothing_is_written_of_nothing_and_one_log_draws_no_curve(tmp_path: Path) -> None:
    telemetry = observed(*pairs(8))
    telemetry.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    telemetry.logs(1)
    telemetry.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "telemetry.json",
        "telemetry_similarities.png",
    ]


WORKER = """
import sys, torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[2])
from test_telemetry import pairs
from llave_hf.training.telemetry.telemetry import Telemetry
def main():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    folder = f"{sys.argv[1]}/{world}"
    telemetry = Telemetry(["a", "b"], by_group=True)
    for step in range(4):
        queries, documents = pairs(96, noise=0.9, seed=step)
        rows = slice(rank * 96 // world, (rank + 1) * 96 // world)
        ids = torch.arange(96) // 2
        tasks = torch.arange(96) // 48
        about = {"task_ids": tasks[rows], "query_ids": ids[rows], "document_ids": ids[rows] + 1}
        about["group_ids"] = (torch.arange(96) % 12)[rows]  # each group on both ranks
        telemetry.observe(queries[rows], documents[rows], temperature=0.05, hardness_strength=9.0, **about)
        if step == 2:
            logs = telemetry.logs(step)
            assert dist.get_world_size() == world
    state = telemetry.state_dict()
    resumed = Telemetry(["a", "b"], by_group=True)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.state_dict()["open"], state["open"])
    telemetry.save(f"{folder}/{rank}")
    torch.save({"logs": logs, **state}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_say_the_same_as_one(tmp_path: Path) -> None:
    worker = tmp_path / "telemetry_worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
    run_ranks([1, 2], worker, str(tmp_path), str(Path(__file__).parent))
    states = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        states[world] = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
        assert (folder / "0" / "telemetry.json").exists()
        assert not (folder / "1").exists()
    one = states[1][0]
    for state in states[2]:
        assert state["logs"] == pytest.approx(one["logs"], abs=1e-6)
        assert int((state["open"] - one["open"]).abs().max()) <= 64
    assert states[2][0]["history"] == states[2][1]["history"]
    assert 0 < one["logs"]["group_gradient_share"] < 1
    assert "overlap_a" not in one["logs"]  # 3 x 48 positives are too few
