"""What mteb's metadata says of a benchmark's subset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mteb.abstasks.task_metadata import TaskMetadata

from llave_hf.evaluation.benchmark.benchmark import Benchmark, Task

# mteb's task type for each meta-task; retrieval for all others
TYPES = {"classification": "ZeroShotClassification", "vqa": "VisionCentricQA"}

# who asks with what for what, by subset, else by meta-task: of MMEB (VLM2Vec, arXiv 2410.05160, Table 1) and MMEB-V2
MMEB_CATEGORIES = {
    "classification": "i2t",
    "vqa": "it2t",
    "grounding": "it2i",
    "N24News": "it2t",
    "VisDial": "t2i",
    "CIRR": "it2i",
    "VisualNews_t2i": "t2i",
    "VisualNews_i2t": "i2t",
    "MSCOCO_t2i": "t2i",
    "MSCOCO_i2t": "i2t",
    "NIGHTS": "i2i",
    "WebQA": "t2it",
    "FashionIQ": "it2i",
    "Wiki-SS-NQ": "t2i",
    "OVEN": "it2it",
    "EDIS": "t2it",
    "RefCOCO-Matching": "it2it",
    "video-classification": "v2t",
    "video-qa": "vt2t",
    "video-retrieval": "t2v",
}
MMEB_FACTS: dict[str, Any] = {
    "reference": "https://tiger-ai-lab.github.io/VLM2Vec/",
    "date": ("2024-10-07", "2024-10-07"),  # its first publication
    "domains": ["Encyclopaedic", "News", "Web"],
    "license": "multiple",  # each source data set has its own
    "annotations_creators": "derived",
    "sample_creation": "found",
    "dialect": [],
    "task_subtypes": [],
    "bibtex_citation": r"""@article{jiang2024vlm2vec,
  author = {Jiang, Ziyan and Meng, Rui and Yang, Xinyi and Yavuz, Semih and Zhou, Yingbo and Chen, Wenhu},
  journal = {arXiv preprint arXiv:2410.05160},
  title = {VLM2Vec: Training Vision-Language Models for Massive Multimodal Embedding Tasks},
  year = {2024},
}""",
}
MMEB_V2_FACTS: dict[str, Any] = {
    **MMEB_FACTS,
    "date": ("2025-07-07", "2025-07-07"),
    "bibtex_citation": r"""@article{meng2025vlm2vecv2,
  author = {Meng, Rui and Jiang, Ziyan and Liu, Ye and Su, Mingyi and Yang, Xinyi and Fu, Yuepeng and Qin, Can and
            Chen, Zeyuan and Xu, Ran and Xiong, Caiming and Zhou, Yingbo and Chen, Wenhu and Yavuz, Semih},
  journal = {arXiv preprint arXiv:2507.04590},
  title = {VLM2Vec-V2: Advancing Multimodal Embedding for Videos, Images, and Visual Documents},
  year = {2025},
}""",
}
FACTS = {"mmeb": MMEB_FACTS, "mmeb-instruct": MMEB_FACTS, "mmeb-v2": MMEB_V2_FACTS}


def describe(
    benchmark: Benchmark, task: Task, modalities: Sequence[str] | None, languages: Sequence[str]
) -> TaskMetadata:
    """The metadata of a subset; its data revision is only known when the rows have been read.

    Args:
        modalities: What the rows hold; None: text and pictures, and videos where the meta-task is called so.
        languages: Codes such as `eng-Latn`.

    Raises:
        pydantic.ValidationError: mteb knows no such modality or language.
    """
    if modalities is None:
        moving = task.modality == "video" or "video" in task.meta_task
        modalities = ("text", "image", *(["video"] if moving else []))
    source = benchmark.source if task.source is None else task.source
    revision = benchmark.revision if task.source is None else task.revision
    facts: dict[str, Any] = {}
    if benchmark.name in FACTS:
        category = MMEB_CATEGORIES.get(task.name) or MMEB_CATEGORIES.get(task.meta_task)
        facts = {**FACTS[benchmark.name], "category": category}
    elif isinstance(source, str):
        facts = {"reference": f"https://huggingface.co/datasets/{source}"}
    return TaskMetadata(
        name=f"{benchmark.name}-{task.name}",
        description=f"Subset {task.name} of the benchmark {benchmark.name} ({task.meta_task}): each query among "
        f"{'its own' if task.pool == 'local' else 'all'} candidates, ties counted by expectation.",
        type=TYPES.get(task.meta_task, "Any2AnyRetrieval"),
        modalities=list(modalities),
        dataset={"path": str(source), "name": task.name, "revision": revision or "not read yet"},
        eval_splits=[task.split or benchmark.split],
        eval_langs=list(languages),
        main_score=task.metric,
        **facts,
    )
