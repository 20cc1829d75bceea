"""Every option of the loss beside its definition: B x B in float64, in the open, on the batch of all ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from loss_reference import unit
from torch.nn import functional as F

Inputs = dict[str, torch.Tensor]
VECTORS = ("query_embeddings", "document_embeddings", "negative_embeddings")
FOCAL = {"focal_margin": 0.3, "hardness_strength": 0.0, "temperature": 0.1}

# name: (settings of the loss, arguments of forward)
FEATURES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, ()),
    "ids": ({}, ("query_ids", "document_ids")),
    "labels": ({}, ("labels", "document_ids")),
    "score margin": ({"false_negative_margin": 0.1}, ()),
    "score margin, one way": ({"false_negative_margin": -0.1, "directions": ("query_to_doc",)}, ("document_ids",)),
    "score margin, other way": ({"false_negative_margin": 0.1, "directions": ("doc_to_query",)}, ()),
    "teacher margin": ({"teacher_margin": 0.05}, ("teacher", "labels")),
    "both margins": ({"teacher_margin": 0.05, "false_negative_margin": 0.2}, ("teacher", "query_ids")),
    "teacher": ({"hardness_source": "teacher"}, ("teacher",)),
    "ema, capped": ({"hardness_source": "ema", "max_weight": 2.0}, ("teacher", "document_ids")),
    "column": ({"hardness_source": "column"}, ("document_hardness",)),
    "column, capped": ({"hardness_source": "column", "max_weight": 1.5}, ("document_hardness",)),
    "capped": ({"max_weight": 3.0}, ("document_ids",)),
    "strength a row": ({}, ("hardness_strength",)),
    "temperature a task": ({"temperature": (0.1, 0.3)}, ("task_ids",)),
    "learned temperature": ({"learn_temperature": True, "temperature": 0.2}, ("document_ids",)),
    "learned, a task": (
        {"learn_temperature": True, "temperature": (0.1, 0.3), "max_weight": 3.0},
        ("task_ids", "hardness_strength"),
    ),
    "learned, sharp": ({"learn_temperature": True, "temperature": 0.012}, ()),
    "matryoshka": ({"matryoshka_dims": (2, 6, 4), "matryoshka_weights": (1, 2, 0.5)}, ("document_ids", "negatives")),
    "own negatives": ({"hardness_mode": "all_negatives"}, ("negatives", "document_ids")),
    "own negatives, learned, margin": (
        {"hardness_mode": "hard_negatives", "learn_temperature": True, "false_negative_margin": 0.1},
        ("negatives", "document_ids"),
    ),
    "own negatives, teacher": (
        {"hardness_mode": "all_negatives", "hardness_source": "teacher", "teacher_margin": 0.1, "max_weight": 3.0},
        ("negatives", "teacher", "hardness_strength"),
    ),
    "own negatives, column": (
        {"hardness_mode": "all_negatives", "hardness_source": "column"},
        ("negatives", "document_hardness", "negative_hardness"),
    ),
    "shared negatives": ({"share_negatives": True}, ("negatives",)),
    "shared negatives, masked": (
        {"share_negatives": True, "hardness_mode": "all_negatives", "false_negative_margin": 0.1},
        ("negatives", "document_ids", "query_ids", "labels"),
    ),
    "shared negatives, teacher, learned": (
        {
            "share_negatives": True,
            "hardness_mode": "all_negatives",
            "hardness_source": "teacher",
            "teacher_margin": 0.1,
            "learn_temperature": True,
            "temperature": (0.1, 0.3),
        },
        ("negatives", "teacher", "task_ids"),
    ),
    "shared negatives, column": (
        {"share_negatives": True, "hardness_source": "column", "max_weight": 4.0},
        ("negatives", "document_hardness", "negative_hardness"),
    ),
    "shared negatives, other way": (
        {"share_negatives": True, "directions": ("doc_to_query",)},
        ("negatives", "document_ids"),
    ),
    "relative, teacher": (
        {"hardness_reference": "positive", "hardness_source": "teacher"},
        ("teacher", "document_ids", "hardness_strength"),
    ),
    "relative, capped": (
        {"hardness_reference": "positive", "max_weight": 1.5, "teacher_margin": 0.4},
        ("teacher", "labels", "hardness_strength"),
    ),
    "relative, ema, capped, one way": (
        {
            "hardness_reference": "positive",
            "hardness_source": "ema",
            "max_weight": 2.0,
            "directions": ("doc_to_query",),
        },
        ("teacher", "query_ids"),
    ),
    "relative, own negatives": (
        {"hardness_reference": "positive", "hardness_source": "teacher", "learn_temperature": True},
        ("negatives", "teacher", "document_ids"),
    ),
    "relative, all negatives, shared, capped": (
        {
            "hardness_reference": "positive",
            "hardness_source": "teacher",
            "hardness_mode": "all_negatives",
            "share_negatives": True,
            "max_weight": 2.0,
            "temperature": (0.1, 0.3),
        },
        ("negatives", "teacher", "task_ids", "hardness_strength"),
    ),
    "relative, hard negatives, self": (
        {"hardness_reference": "positive", "hardness_mode": "hard_negatives", "max_weight": 3.0},
        ("negatives", "document_ids"),
    ),
    "focal": ({**FOCAL}, ("document_ids",)),
    "focal, one way, margin": ({**FOCAL, "directions": ("query_to_doc",), "false_negative_margin": 0.1}, ()),
    "focal, learned, a task": (
        {**FOCAL, "learn_temperature": True, "temperature": (0.1, 0.3)},
        ("task_ids", "labels", "negatives"),
    ),
    "focal, shared negatives, Matryoshka": (
        {**FOCAL, "share_negatives": True, "matryoshka_dims": (6, 3), "matryoshka_weights": (1, 0.5)},
        ("negatives", "query_ids"),
    ),
    "relative margins": (
        {"false_negative_margin": -0.3, "teacher_margin": 0.2, "margin_strategy": "relative"},
        ("teacher", "negatives", "document_ids"),
    ),
    "relative margin, shared negatives": (
        {"false_negative_margin": 0.4, "margin_strategy": "relative", "share_negatives": True},
        ("negatives",),
    ),
    "graded": ({"distill_weight": 0.7}, ("negatives", "scores", "document_ids")),
    "graded, sharper target": (
        {"distill_weight": 2.0, "contrastive_weight": 0.5, "teacher_temperature": 0.01, "learn_temperature": True},
        ("negatives", "scores", "hardness_strength"),
    ),
    "graded alone, by teacher": (
        {"distill_weight": 1.5, "contrastive_weight": 0.0, "distill_source": "teacher", "temperature": (0.1, 0.3)},
        ("negatives", "teacher", "task_ids", "document_ids"),
    ),
    "graded, one way, Matryoshka, margin": (
        {
            "distill_weight": 1.0,
            "directions": ("doc_to_query",),
            "false_negative_margin": 0.0,
            "matryoshka_dims": (4, 6),
            "matryoshka_weights": (1, 1),
        },
        ("negatives", "scores"),
    ),
    "graded, focal, shared": (
        {**FOCAL, "distill_weight": 1.0, "share_negatives": True},
        ("negatives", "scores", "document_ids"),
    ),
}


def batch(
    rows: int, given: tuple[str, ...], seed: int = 0, dims: int = 6, dtype: torch.dtype = torch.float64
) -> Inputs:
    """Arguments of forward for `rows` pairs of all ranks."""
    numbers = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=numbers)

    vectors = [unit(rows, dims, seed=seed), unit(rows, dims, seed=seed + 1), unit(rows, 3, dims, seed=seed + 2)]
    teacher = [x.detach() for x in (unit(rows, 3, seed=seed + 3), unit(rows, 3, seed=seed + 4))]
    made = {
        "query_ids": integers(max(2, rows), rows),
        "document_ids": integers(max(2, rows), rows),
        "labels": integers(rows // 2 + 2, rows) - 1,
        "task_ids": integers(2, rows),
        "hardness_strength": 9 * torch.rand(rows, generator=numbers, dtype=torch.float64),
        "document_hardness": torch.rand(rows, generator=numbers, dtype=torch.float64),
        "negative_hardness": torch.rand(rows, 3, generator=numbers, dtype=torch.float64),
    }
    if "scores" in given:
        made["positive_scores"] = torch.rand(rows, generator=numbers, dtype=torch.float64)
        made["negative_scores"] = torch.rand(rows, 3, generator=numbers, dtype=torch.float64)
        given = (*given, "positive_scores", "negative_scores")
    inputs = {name: values for name, values in made.items() if name in given}
    inputs.update(zip(VECTORS, vectors[: 3 if "negatives" in given else 2], strict=False))
    if "negatives" in given:
        inputs["negative_mask"] = integers(4, rows, 3) > 0
        if "document_ids" in given:
            inputs["negative_ids"] = integers(rows + 2, rows, 3)
    if "teacher" in given:
        inputs["teacher_query_embeddings"], inputs["teacher_document_embeddings"] = teacher
        if "negatives" in given:
            inputs["teacher_negative_embeddings"] = unit(rows, 3, 3, seed=seed + 5).detach()
    for name in VECTORS:
        if name in inputs:
            inputs[name] = inputs[name].detach().to(dtype).requires_grad_()
    return inputs


def definition(inputs: Inputs, settings: dict[str, Any], temperatures: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of all pairs. `temperatures`: τ of each task, where they want a gradient."""
    if settings.get("matryoshka_dims"):
        rest = {name: value for name, value in settings.items() if not name.startswith("matryoshka")}
        total = torch.zeros((), dtype=torch.float64)
        for dims, weight in zip(settings["matryoshka_dims"], settings["matryoshka_weights"], strict=True):
            cut = {name: inputs[name] for name in VECTORS if name in inputs}
            if dims < inputs["query_embeddings"].shape[1]:
                cut = {name: F.normalize(vectors[..., :dims], dim=-1) for name, vectors in cut.items()}
            total = total + weight * definition({**inputs, **cut}, rest, temperatures)
        return total
    queries, documents = inputs["query_embeddings"], inputs["document_embeddings"]
    size = len(queries)
    if temperatures is None:
        temperatures = torch.as_tensor(settings.get("temperature", 0.02), dtype=torch.float64).reshape(-1)
    tau = temperatures[inputs["task_ids"]] if len(temperatures) > 1 else temperatures.expand(size)
    alpha = torch.as_tensor(inputs.get("hardness_strength", settings.get("hardness_strength", 9.0))).expand(size)
    mode, shared = settings.get("hardness_mode", "in_batch_negatives"), settings.get("share_negatives", False)
    source, cap = settings.get("hardness_source", "self"), math.log(settings.get("max_weight") or math.inf)
    focal = settings.get("focal_margin")
    diagonal = torch.eye(size, dtype=torch.bool)
    s = queries @ documents.T
    teacher = None
    if "teacher_query_embeddings" in inputs:
        teacher = inputs["teacher_query_embeddings"] @ inputs["teacher_document_embeddings"].T
    h = {"self": s, "column": inputs.get("document_hardness", s)}.get(source, teacher)
    assert h is not None
    h = h.expand(size, size)
    reference = (alpha * h.diag()).detach() * (settings.get("hardness_reference") == "positive")
    in_batch = (alpha[:, None] * h).detach(), mode != "hard_negatives"
    row_weights, column_weights = (
        ((in_batch[0] - x).clamp(max=cap) * in_batch[1]).masked_fill(diagonal, 0)
        for x in (reference[:, None], reference[None, :])
    )
    curved = s if focal is None else torch.where(diagonal, s * s, s * (s + focal))

    out = torch.zeros(size, size, dtype=torch.bool)
    for name in ("query_ids", "document_ids", "labels"):
        if name in inputs:
            ids = inputs[name]
            out |= (ids[:, None] == ids) & ((ids >= 0) | (name != "labels"))
    out_of_rows, out_of_columns = out.clone(), out.clone()
    margins = [(settings.get("false_negative_margin"), s), (settings.get("teacher_margin"), teacher)]
    limits = []
    for margin, values in margins:
        if margin is not None:
            positives = values.diag()
            limit = positives + (positives.abs() if settings.get("margin_strategy") == "relative" else 1) * margin
            out_of_rows |= values > limit[:, None]
            out_of_columns |= values > limit[None, :]
        limits.append(None if margin is None else limit)
    scaled = curved / tau[:, None]
    row_logits = (scaled + row_weights).masked_fill(out_of_rows & ~diagonal, -torch.inf)
    column_logits = (scaled + column_weights).masked_fill(out_of_columns & ~diagonal, -torch.inf)

    if "negative_embeddings" in inputs:
        n_s = torch.einsum("id,jkd->ijk", queries, inputs["negative_embeddings"])
        n_teacher = None
        if teacher is not None:
            n_teacher = torch.einsum(
                "id,jkd->ijk", inputs["teacher_query_embeddings"], inputs["teacher_negative_embeddings"]
            )
        n_h = {"self": n_s, "column": inputs.get("negative_hardness")}.get(source, n_teacher)
        weighted = torch.where(diagonal, mode != "in_batch_negatives", mode != "hard_negatives")[..., None]
        n_weights = 0.0
        if n_h is not None:
            n_weights = (alpha[:, None, None] * n_h - reference[:, None, None]).clamp(max=cap).detach() * weighted
        n_out = ~inputs["negative_mask"].expand(size, -1, -1)
        if "negative_ids" in inputs:
            n_out = n_out | (inputs["negative_ids"] == inputs["document_ids"][:, None, None])
        graded_out = n_out[diagonal]
        for limit, n_values in zip(limits, (n_s, n_teacher), strict=True):
            if limit is not None:
                n_out = n_out | (n_values > limit[:, None, None])
        if not shared:
            n_out = n_out | ~diagonal[..., None]
        n_curved = n_s if focal is None else n_s * (n_s + focal)
        n_logits = (n_curved / tau[:, None, None] + n_weights).masked_fill(n_out, -torch.inf)
        row_logits = torch.cat((row_logits, n_logits.flatten(1)), 1)

    labels = torch.arange(size)
    values = {
        "query_to_doc": F.cross_entropy(row_logits, labels),
        "doc_to_query": F.cross_entropy(column_logits.T, labels),
    }
    contrastive = torch.stack([values[x] for x in settings.get("directions", tuple(values))]).mean()
    if not settings.get("distill_weight"):
        return contrastive
    target = torch.cat((inputs.get("positive_scores", s.diag())[:, None], inputs.get("negative_scores", s)), 1)
    if settings.get("distill_source") == "teacher":
        assert teacher is not None and n_teacher is not None
        target = torch.cat((teacher.diag()[:, None], n_teacher[diagonal]), 1)
    sharpness = torch.as_tensor(settings.get("teacher_temperature") or tau.detach(), dtype=s.dtype).expand(size)
    student = torch.cat((s.diag()[:, None], n_s[diagonal]), 1) / tau[:, None]
    graded = [
        symmetrised_kl(student[row, kept], target[row, kept] / sharpness[row])
        for row, out_here in enumerate(graded_out)
        for kept in [torch.cat((torch.tensor([True]), ~out_here))]
    ]
    by_weight = settings.get("contrastive_weight", 1.0) * contrastive
    return by_weight + settings["distill_weight"] * torch.stack(graded).mean()


def symmetrised_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """½(KL(P‖Q) + KL(Q‖P)) of one row's candidates that count, from the logits of P and of Q."""
    p, q = student.softmax(0), teacher.softmax(0)
    return ((p * (p.log() - q.log())).sum() + (q * (q.log() - p.log())).sum()) / 2
