"""Encoders of this package in mteb's own tasks: what they are given, and that the scores are plain arithmetic's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from evaluation_helpers import RecordingEncoder, constant_encoder
from helpers import picture, tiny_model, write_video
from scipy.stats import spearmanr
from torch.utils.data import DataLoader

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.model_identity import path_revision
from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer
from llave_hf.errors import UserError
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS

mteb = pytest.importorskip("mteb")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.mocks.mock_tasks import (  # noqa: E402
    MockAudioClassification,
    MockClassificationTask,
    MockImageClassificationTask,
    MockImageTextPairClassificationTask,
    MockInstructionRetrieval,
    MockMultiChoiceTask,
    MockRerankingTask,
    MockVideoClassification,
    MockVideoRetrievalV2T,
    MockVisualSTSTask,
    MockZeroShotClassificationTask,
)
from mteb.models import EncoderProtocol  # noqa: E402
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from llave_hf.evaluation.mteb import LlaveMtebModel  # noqa: E402

TEXTS = ["a dog", "a cat", "two red circles", "snow on a hill", "the sea", "an empty road"]


@pytest.fixture(scope="module")
def parts() -> tuple[LlaveModel, LlaveProcessor]:
    return tiny_model()


@pytest.fixture(scope="module")
def model(parts: tuple[LlaveModel, LlaveProcessor]) -> LlaveMtebModel:
    return LlaveMtebModel(LlaveEncoder(*parts))


@pytest.fixture(scope="module")
def folder(parts: tuple[LlaveModel, LlaveProcessor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "Tiny-LLaVE"
    for part in parts:
        part.save_pretrained(path)
    (path / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: some/base\ndatasets: [TIGER-Lab/MMEB-train]\n---\nA card.\n"
    )
    return path


def metadata(kind: str, name: str, modalities: Sequence[str], category: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="of this test",
        type=kind,
        modalities=list(modalities),
        category=category,
        dataset={"path": "in/memory", "revision": "0"},
        eval_langs=["eng-Latn"],
        main_score=score,
    )


def retrieval(category: str, queries: dict[str, list[Any]], documents: dict[str, list[Any]]) -> AbsTaskRetrieval:
    """Query i looks for document i."""
    names = {"t": "text", "i": "image"}
    ids = [str(number) for number in range(len(next(iter(queries.values()))))]
    where = {"id": [f"q{i}" for i in ids]}, {"id": [f"d{i}" for i in ids]}

    class InMemory(AbsTaskRetrieval):
        metadata = metadata(
            "Any2AnyRetrieval",
            f"InMemory_{category}",
            [names[letter] for letter in sorted(set(category) & set(names))],
            category,
            "hit_rate_at_1",
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            split = {
                "queries": Dataset.from_dict(where[0] | queries),
                "corpus": Dataset.from_dict(where[1] | documents),
                "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in ids},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return InMemory()


def run(model: Any, task: Any) -> dict[str, Any]:
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return found.task_results[0].scores["test"][0]


def vectors(
    parts: tuple[LlaveModel, LlaveProcessor], texts: Sequence[str], images: Sequence[Any] | None = None
) -> np.ndarray:
    """One by one through model and processor, without anything that encodes lists."""
    model, processor = parts
    rows = []
    for number, text in enumerate(texts):
        inputs = processor(text=[text], images=None if images is None else [images[number]], return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).embeddings[0].numpy())
    return np.stack(rows)


def mean_reciprocal_rank(queries: np.ndarray, documents: np.ndarray) -> float:
    scores = queries @ documents.T
    return float(np.mean(1 / (1 + (scores > scores.diagonal()[:, None]).sum(1))))


def loader(columns: dict[str, list[Any]], features: Features | None = None) -> DataLoader[Any]:
    data = Dataset.from_dict(columns, features=features)
    return DataLoader(data, batch_size=2, collate_fn=lambda rows: {key: [row[key] for row in rows] for key in rows[0]})


def encode(model: LlaveMtebModel, inputs: DataLoader[Any], task: TaskMetadata, role: PromptType | None = None) -> Any:
    return model.encode(
        inputs, task_metadata=task, hf_split="test", hf_subset="default", prompt_type=role, show_progress_bar=False
    )


PLAIN = metadata("STS", "PlainTask", ["text", "image", "video"], "t2t", "cosine_spearman")


def test_text_retrieval_is_plain_arithmetic(model: LlaveMtebModel, parts: tuple[LlaveModel, LlaveProcessor]) -> None:
    documents = [text.upper() for text in TEXTS]
    found = run(model, retrieval("t2t", {"text": TEXTS}, {"text": documents}))
    expected = mean_reciprocal_rank(vectors(parts, TEXTS), vectors(parts, documents))
    assert found["mrr_at_10"] == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 1  # else it would not tell the vectors apart


@pytest.mark.parametrize("asked_with", ["text", "image"])
def test_retrieval_between_texts_and_pictures_brings_mmebs_instructions(
    asked_with: str, model: LlaveMtebModel, parts: tuple[LlaveModel, LlaveProcessor]
) -> None:
    images = [picture(30 + 4 * number, 40, seed=number) for number in range(len(TEXTS))]
    if asked_with == "text":
        task = retrieval("t2i", {"text": TEXTS}, {"image": images})
        queries = vectors(parts, [f"Find an image that matches the given caption: {text}\n" for text in TEXTS])
        documents = vectors(parts, ["Represent the given image.\n"] * len(TEXTS), images)
    else:
        task = retrieval("i2t", {"image": images}, {"text": TEXTS})
        queries = vectors(parts, ["Find an image caption describing the given image.\n"] * len(TEXTS), images)
        documents = vectors(parts, TEXTS)
    found = run(model, task)
    assert found["mrr_at_10"] == pytest.approx(mean_reciprocal_rank(queries, documents), abs=1e-5)


def test_similarity_of_texts_is_plain_arithmetic(
    model: LlaveMtebModel, parts: tuple[LlaveModel, LlaveProcessor]
) -> None:
    class Similar(AbsTaskSTS):
        metadata = metadata("STS", "InMemorySTS", ["text"], "t2t", "cosine_spearman")
        min_score, max_score = 0, 5

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            rows = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [0.0, 3.0, 1.0, 5.0, 2.0, 4.0]}
            self.dataset = {"test": Dataset.from_dict(rows)}
            self.data_loaded = True

    made = vectors(parts, TEXTS)
    expected = spearmanr(np.sum(made * made[::-1], axis=1).round(6), [0, 3, 1, 5, 2, 4]).statistic
    assert run(model, Similar())["cosine_spearman"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "task",
    [
        MockClassificationTask,
        MockImageClassificationTask,
        MockImageTextPairClassificationTask,
        MockInstructionRetrieval,
        MockMultiChoiceTask,
        MockRerankingTask,
        MockVideoClassification,
        MockVideoRetrievalV2T,
        MockVisualSTSTask,
        MockZeroShotClassificationTask,
    ],
)
def test_mtebs_mock_tasks_run(task: Callable[[], Any], model: LlaveMtebModel) -> None:
    made = task()
    main = run(model, made)["main_score"]
    assert -1 <= main <= 1 or made.metadata.name == "MockVisualSTS"  # equal labels have no rank correlation


def of_pixels(entry: Any) -> np.ndarray:
    """One direction for each picture or video, by its very pixels."""
    media = entry.get("image") or entry["video"][0]
    return np.random.default_rng(np.asarray(media).sum()).standard_normal(64)


@pytest.mark.parametrize("task", [MockImageClassificationTask, MockVideoClassification])
def test_what_tells_the_contents_apart_classifies_them(task: Callable[[], Any]) -> None:
    """The test's pictures and videos are the training's: each must meet its own vector again."""
    assert run(LlaveMtebModel(RecordingEncoder(of_pixels)), task())["accuracy"] == 1.0


def test_a_constant_encoder_is_at_chance_in_classification() -> None:
    found = run(LlaveMtebModel(constant_encoder()), MockImageClassificationTask())
    assert found["accuracy"] == 0.5  # two classes, as many of each


def test_it_is_an_encoder_to_mteb(model: LlaveMtebModel) -> None:
    assert isinstance(model, EncoderProtocol)


def test_audio_and_unknown_columns_are_refused(model: LlaveMtebModel) -> None:
    with pytest.raises(ValueError, match="audio"):
        run(model, MockAudioClassification())  # mteb's own check of the modalities
    with pytest.raises(ValueError, match="has audio, which these models cannot embed"):
        encode(model, loader({"text": ["a"], "audio": [[0.0]]}), PLAIN)
    with pytest.raises(ValueError, match="columns are smell: none of text, image, video"):
        encode(model, loader({"smell": ["a"]}), PLAIN)
    with pytest.raises(ValueError, match="input 1: image is empty"):
        encode(model, loader({"image": [picture(), None]}, Features({"image": Image()})), PLAIN)


def test_every_combination_of_columns(parts: tuple[LlaveModel, LlaveProcessor], tmp_path: Path) -> None:
    plain = LlaveMtebModel(LlaveEncoder(*parts), prompts={})
    images = [picture(seed=number) for number in range(3)]
    several = loader(
        {"text": ["both", "one", ""], "image": [images[:2], images[2:], images[:1]]},
        Features({"text": Value("string"), "image": List(Image())}),
    )
    made = encode(plain, several, PLAIN)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[:1], vectors(parts, ["both"], [images[:2]]), atol=1e-5)
    np.testing.assert_allclose(made[1:], vectors(parts, ["one", ""], [images[2], images[0]]), atol=1e-5)

    from datasets import Video

    video = write_video(tmp_path / "walk.mp4", [10, 100, 200])
    files = loader({"video": [str(video)], "text": ["walks"]}, Features({"video": Video(), "text": Value("string")}))
    stored = Features({"video": Video(), "text": Value("string")})
    bytes_ = loader({"video": [{"bytes": video.read_bytes(), "path": None}], "text": ["walks"]}, stored)
    direct = LlaveEncoder(*parts).encode([{"video": str(video), "text": "walks"}])
    np.testing.assert_allclose(encode(plain, files, PLAIN), direct, atol=1e-5)
    np.testing.assert_allclose(encode(plain, bytes_, PLAIN), direct, atol=1e-5)


def test_each_distinct_input_is_encoded_once_over_all_batches() -> None:
    recording = RecordingEncoder(lambda text: [len(text), 1.0])
    made = encode(LlaveMtebModel(recording), loader({"text": ["a", "bb", "ccc", "a", "bb", "a"]}), PLAIN)
    assert recording.seen == ["a", "bb", "ccc"]
    np.testing.assert_array_equal(made[:, 0], [1, 2, 3, 1, 2, 1])


class TestPrompts:
    """What stands before the inputs."""

    def seen(self, role: PromptType | None, encoder: Any = None, task: TaskMetadata = PLAIN, **options: Any) -> Any:
        recording = encoder or RecordingEncoder(lambda _: [1.0])
        encode(LlaveMtebModel(recording, **options), loader({"text": ["a dog"]}), task, role)
        return recording.seen[-1]

    def test_the_callers_follow_mtebs_rule(self) -> None:
        chosen = {"query": "Q: ", "document": "D: ", "STS": "S: ", "STS12-query": "never"}
        assert self.seen(PromptType.query, prompts={"query": "Q: "}) == "Q: a dog"
        assert self.seen(PromptType.query, prompts=chosen) == "S: a dog"  # a task type comes before a role
        assert self.seen(None, prompts={"query": "Q: "}) == "a dog"
        with pytest.raises(UserError, match="no task, task type or role 'qury'"):
            LlaveMtebModel(constant_encoder(), prompts={"qury": "Q: "})

    def test_the_models_own_come_before_mmebs_instructions(self) -> None:
        encoder = RecordingEncoder(lambda _: [1.0])
        encoder.prompts = PROMPTS | {"query": "Mine: "}  # type: ignore[attr-defined]
        t2i = PLAIN.model_copy(update={"category": "t2i"})
        assert self.seen(PromptType.query, encoder, t2i) == "Mine: a dog"
        encoder.prompts = PROMPTS  # type: ignore[attr-defined]
        assert self.seen(PromptType.query, encoder, t2i) == "Find an image that matches the given caption: a dog\n"
        assert self.seen(PromptType.query, encoder, t2i, prompts={}) == "a dog"
        encoder.default_prompt_name = "vqa_query"  # type: ignore[attr-defined]
        assert self.seen(None, encoder) == PROMPTS["vqa_query"] + "a dog"

    def test_a_sentence_transformer_gets_them_as_a_prompt(self, folder: Path) -> None:
        opened = LlaveSentenceTransformer(str(folder), device="cpu")
        mine = LlaveMtebModel(opened, prompts={"query": "Q: "})
        made = encode(mine, loader({"text": ["a dog"]}), PLAIN, PromptType.query)
        np.testing.assert_allclose(made, opened.encode(["Q: a dog"]), atol=1e-6)
        assert np.abs(made - opened.encode(["a dog"])).max() > 1e-3

    def test_other_prompts_are_another_experiment(self, model: LlaveMtebModel) -> None:
        plain, other = (LlaveMtebModel(model.model, prompts=p).mteb_model_meta for p in (None, {"query": "Q: "}))
        assert plain.revision == other.revision
        assert plain.experiment_name is None
        assert other.experiment_name


def test_it_scores_what_mtebs_wrapper_scores(folder: Path) -> None:
    opened = LlaveSentenceTransformer(str(folder), device="cpu")
    task = retrieval("t2t", {"text": TEXTS}, {"text": [text.upper() for text in TEXTS]})
    ours, theirs = run(LlaveMtebModel(opened), task), run(SentenceTransformerEncoderWrapper(opened), task)
    assert ours["ndcg_at_10"] == pytest.approx(theirs["ndcg_at_10"], abs=1e-6)


def test_the_metadata_of_a_folder(folder: Path, parts: tuple[LlaveModel, LlaveProcessor]) -> None:
    meta = LlaveMtebModel(folder, device="cpu").mteb_model_meta
    parameters = list(parts[0].parameters())
    assert meta.name == "local/Tiny-LLaVE"
    assert meta.revision == path_revision(folder).replace(":", "-")
    assert meta.modalities == ["text", "image", "video"]
    assert meta.embed_dim == parts[0].config.hidden_size == 24
    assert meta.n_parameters == sum(parameter.numel() for parameter in parameters)
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20)
    assert meta.max_tokens and meta.max_tokens > 0
    assert (meta.license, meta.adapted_from) == ("apache-2.0", "some/base")
    assert meta.framework == ["Sentence Transformers", "PyTorch"]
    assert meta.similarity_fn_name == mteb.models.model_meta.ScoringFunction.COSINE
    assert meta.training_datasets is not None
    assert {"mmeb-OK-VQA", "NIGHTSI2IRetrieval"} <= meta.training_datasets
    assert "mmeb-GQA" not in meta.training_datasets  # out of distribution
    for name in meta.training_datasets:
        assert name.startswith("mmeb-") or mteb.get_task(name), name


def test_the_metadata_of_objects(model: LlaveMtebModel) -> None:
    assert model.mteb_model_meta.name == "local/LlaveEncoder"
    assert model.mteb_model_meta.embed_dim == 24
    assert model.mteb_model_meta.training_datasets is None
    unknown = LlaveMtebModel(constant_encoder(), meta={"name": "me/mine", "license": "mit"}).mteb_model_meta
    assert (unknown.name, unknown.license, unknown.revision) == ("me/mine", "mit", "no_revision_available")
    with pytest.raises(ValueError, match="licence"):
        LlaveMtebModel(constant_encoder(), meta={"licence": "mit"})


def test_without_mteb_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mteb" or "evaluation.mteb" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r"pip install 'llave-hf\[mteb\]'"):
        import llave_hf.evaluation.mteb  # noqa: F401
