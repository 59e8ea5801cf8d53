"""The rank of a change: matrices of known spectrum, adapters in both formats, a fully fine-tuned model, and what the report says of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("gguf", reason="gguf is not installed")

from core.errors import InputError  # noqa: E402 - after the skips
from scripts.low_rank.changes import place, read_change  # noqa: E402
from scripts.low_rank.spectrum import Spectrum, lora_singular_values, singular_values  # noqa: E402
from scripts.low_rank.verdict import judge_rank, kept_by_all, needed_rank, ranks_shown  # noqa: E402
from scripts.rank import app  # noqa: E402


def spectrum(values: list[float], *, bound: int | None = None, layer: int | None = 0, rows: int = 64, columns: int = 64, name: str = "m") -> Spectrum:
    return Spectrum(name, layer, "q_proj", rows, columns, np.array(values), bound)


def with_spectrum(rows: int, columns: int, values: list[float], seed: int = 1) -> Any:
    """A random matrix of these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q[:, : len(values)]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q[:, : len(values)]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def test_measures_of_known_spectra() -> None:
    flat = spectrum([2.0] * 8)
    assert flat.effective_rank == pytest.approx(8)
    assert flat.stable_rank == pytest.approx(8)
    assert flat.kept(4) == pytest.approx(0.5)
    assert flat.rank_for(0.95) == 8
    one = spectrum([3.0, 0.0, 0.0])
    assert (one.effective_rank, one.stable_rank, one.rank_for(0.95)) == (pytest.approx(1), pytest.approx(1), 1)
    halves = spectrum([1.0, 0.5, 0.25])
    shares = np.array([4, 2, 1]) / 7
    assert halves.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert halves.stable_rank == pytest.approx(1 + 0.25 + 0.0625)


def test_no_change_has_no_rank_and_keeps_all() -> None:
    nothing = spectrum([0.0, 0.0])
    assert (nothing.effective_rank, nothing.stable_rank, nothing.rank_for(0.9), nothing.kept(1)) == (0.0, 0.0, 0, 1.0)


@pytest.mark.parametrize(("rows", "columns"), [(40, 30), (30, 40), (300, 6), (6, 300)])
def test_singular_values_of_a_known_matrix(rows: int, columns: int) -> None:
    found = singular_values(with_spectrum(rows, columns, [5.0, 2.0, 0.5]).float())
    assert found[:3] == pytest.approx([5.0, 2.0, 0.5], rel=1e-5)
    assert found[3:] == pytest.approx(0, abs=1e-5)


def test_a_tall_matrix_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.low_rank.spectrum._ROWS", 64)
    tall = torch.randn(1000, 8, generator=torch.Generator().manual_seed(2))
    assert singular_values(tall) == pytest.approx(torch.linalg.svdvals(tall.double()).numpy(), rel=1e-9)


def test_lora_factors_give_the_singular_values_of_their_product() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, 50, generator=generator), torch.randn(70, 4, generator=generator)
    assert lora_singular_values(a, b, 0.5) == pytest.approx(torch.linalg.svdvals(0.5 * b.double() @ a.double()).numpy()[:4], rel=1e-6)


def test_directions_above_noise_are_counted() -> None:
    noise = 0.01 * torch.randn(100, 80, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    values = singular_values(with_spectrum(100, 80, [3.0, 2.0, 1.0]) + noise)
    assert Spectrum("m", 0, "q_proj", 100, 80, values).rank_above_noise == 3
    assert Spectrum("m", 0, "q_proj", 100, 80, values[:16], bound=16).rank_above_noise is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.layers.11.self_attn.q_proj.weight", (11, "q_proj")),
        ("blk.3.ffn_down.weight", (3, "down_proj")),
        ("blk.3.attn_output.weight", (3, "o_proj")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
        ("token_embd.weight", (None, "embed_tokens")),
    ],
)
def test_places_of_both_name_styles(name: str, found: tuple[int | None, str]) -> None:
    assert place(name) == found


# --- what trainings leave ---


def tiny_model() -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


def trained_adapter(folder: Path, **kind: Any) -> Path:
    """A LoRA adapter of random factors, of rank 4 and alpha 8."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, **kind))
    model.save_pretrained(folder / "adapter")
    model.get_base_model().config.save_pretrained(folder / "base")
    return folder / "adapter"


def test_a_peft_adapter_and_its_gguf_have_the_same_spectra(tmp_path: Path) -> None:
    from scripts.training.lora_gguf import convert

    adapter = trained_adapter(tmp_path)
    convert(adapter, tmp_path / "base", tmp_path / "adapter.gguf", "f32")
    one, other = read_change(adapter, ""), read_change(tmp_path / "adapter.gguf", "")
    assert (one.kind, one.rank, len(one.spectra)) == ("LoRA", 4, 5 * 7)
    by_place = {(spectrum.layer, spectrum.module): spectrum for spectrum in other.spectra}
    assert len(by_place) == 5 * 7
    for spectrum_ in one.spectra:
        twin = by_place[spectrum_.layer, spectrum_.module]
        assert spectrum_.values == pytest.approx(twin.values, rel=1e-5)
        assert (spectrum_.rows, spectrum_.columns) == (twin.rows, twin.columns)


def test_the_spectra_are_those_of_the_merged_change(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    adapter = trained_adapter(tmp_path, use_rslora=True, alpha_pattern={"q_proj": 32}, rank_pattern={"k_proj": 2})
    before = {name: tensor.clone() for name, tensor in tiny_model().state_dict().items()}
    merged = peft.PeftModel.from_pretrained(tiny_model(), str(adapter)).merge_and_unload().state_dict()
    change = read_change(adapter, "")
    for spectrum_ in change.spectra:
        name = f"{spectrum_.name}.weight"
        whole = torch.linalg.svdvals((merged[name] - before[name]).double()).numpy()
        assert spectrum_.values == pytest.approx(whole[: len(spectrum_.values)], rel=1e-3, abs=1e-6)
    assert {spectrum_.bound for spectrum_ in change.spectra if spectrum_.module == "k_proj"} == {2}


def fine_tuned(folder: Path, rank: int) -> tuple[Path, Path]:
    """A base and a copy, every projection of which differs by a matrix of this rank."""
    model = tiny_model()
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.ndim == 2 and "proj" in name:
                parameter += 0.1 * with_spectrum(*parameter.shape, [1.0] * rank, seed=number).float()
    model.save_pretrained(folder / "tuned")
    return folder / "tuned", folder / "base"


def test_a_fully_fine_tuned_model_against_its_base(tmp_path: Path) -> None:
    tuned, base = fine_tuned(tmp_path, 3)
    change = read_change(tuned, str(base))
    changed = [spectrum_ for spectrum_ in change.spectra if spectrum_.energy > 0]
    assert (change.kind, change.rank, len(changed)) == ("full fine-tuning", None, 5 * 7)
    assert all(spectrum_.effective_rank == pytest.approx(3, abs=0.1) and spectrum_.kept(3) > 0.999 for spectrum_ in changed)
    assert all(spectrum_.relative_change is not None and 0 < spectrum_.relative_change < 1 for spectrum_ in changed)
    assert "model.norm.weight" in change.skipped
    verdict = judge_rank(change, asked=4)
    assert verdict.suffices
    assert verdict.needed == 3
    assert "low-rank premise holds" in verdict.sentences[0]


def test_a_real_small_training_changes_little_rank_in_few_steps(tmp_path: Path) -> None:
    """Full fine-tuning of a few steps of plain gradient descent on one short example: the gradient of each matrix has at most the rank of its tokens."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    tokens = torch.tensor([[5, 7, 9, 11]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "tuned")
    change = read_change(tmp_path / "tuned", str(tmp_path / "base"))
    blocks = [spectrum_ for spectrum_ in change.spectra if spectrum_.layer is not None and spectrum_.energy > 0]
    assert blocks
    assert needed_rank(blocks, 0.999) <= 4


def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    dora = trained_adapter(tmp_path, use_dora=True)
    with pytest.raises(InputError, match="DoRA"):
        read_change(dora, "")
    tuned, base = fine_tuned(tmp_path / "full", 1)
    with pytest.raises(InputError, match="does not differ"):
        read_change(base, str(base))
    with pytest.raises(InputError, match="does not exist"):
        read_change(tmp_path / "nothing", "")
    (dora / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_change(dora, "")
    broken = {name: value[:-1] if name.endswith("up_proj.weight") else value for name, value in safetensors_torch.load_file(tuned / "model.safetensors").items()}
    safetensors_torch.save_file(broken, tuned / "model.safetensors")
    with pytest.raises(InputError, match="in the base"):
        read_change(tuned, str(base))


# --- what is said ---


def test_needed_rank_weighs_matrices_by_their_energy() -> None:
    loud, faint = spectrum([10.0, 0.1]), spectrum([0.1] * 8, name="n")
    assert needed_rank([loud, faint]) == 1
    assert kept_by_all([loud, faint], 8) == pytest.approx(1.0)


def change_of(*spectra: Spectrum, rank: int | None) -> Any:
    from scripts.low_rank.changes import Change

    return Change("LoRA" if rank else "full fine-tuning", rank, spectra)


def test_a_steep_adapter_may_be_smaller_and_a_flat_one_should_be_larger() -> None:
    steep = judge_rank(change_of(spectrum([4.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], bound=8), rank=8))
    assert steep.suffices
    assert "--rank 2" in steep.sentences[0]
    flat = judge_rank(change_of(spectrum([1.0] * 8, bound=8), rank=8))
    assert not flat.suffices
    assert "--rank 16" in flat.sentences[0]


def test_a_change_of_all_directions_does_not_fit_a_low_rank() -> None:
    flat = judge_rank(change_of(spectrum([*np.linspace(3.0, 0.01, 64).tolist()]), rank=None), asked=4)
    assert flat.suffices is False
    assert "does not hold at rank 4" in flat.sentences[0]


def test_a_few_strong_directions_over_a_broad_rest_are_left_to_a_trial() -> None:
    mixed = judge_rank(change_of(spectrum([9.0, 8.0, *[1.0] * 300], rows=302, columns=302), rank=None), asked=4)
    assert mixed.suffices is None
    assert "2 directions in the median matrix" in mixed.sentences[0]


def test_a_matrix_that_needs_more_and_a_trend_with_depth_are_named() -> None:
    usual = [spectrum([1.0] * (1 + layer), layer=layer, name=f"layer{layer}") for layer in range(6)]
    odd = spectrum([1.0] * 30, layer=3, name="odd")
    said = " ".join(judge_rank(change_of(*usual, odd, rank=None), asked=64).sentences)
    assert "odd (29)" in said
    growing = " ".join(judge_rank(change_of(*usual, rank=None), asked=64).sentences)
    assert "grows with depth" in growing


def test_ranks_are_powers_of_two_up_to_the_adapters_own() -> None:
    assert ranks_shown(change_of(spectrum([1.0] * 12, bound=12), rank=12)) == [1, 2, 4, 8, 12]
    assert ranks_shown(change_of(spectrum([1.0] * 8, bound=8), rank=8)) == [1, 2, 4, 8]


def test_the_command_writes_report_and_figures(tmp_path: Path) -> None:
    adapter, out = trained_adapter(tmp_path), tmp_path / "out"
    result = CliRunner().invoke(app, [str(adapter), "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads((out / "rank.json").read_text(encoding="utf-8"))
    assert len(document["matrices"]) == 35
    assert document["energy_kept"]["4"] == pytest.approx(1.0)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    missing = CliRunner().invoke(app, [str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert len(missing.stderr.strip().splitlines()) == 1
