"""The attention benchmarks: providers agree, the model is right, reports are complete."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from benches import gpu_report
from benches.attention import checks, kernel_time, measure, model, report, shapes, steps, tables
from benches.attention.gate import Gate, Verdict, with_gradients
from benches.attention.inputs import eager, make_inputs
from benches.attention.providers import PROVIDERS, Provider, _block_mask, run_packed, sdpa

SMALL = shapes.Shape("small", 4, 2, 8, causal=True)


def small_case(*, causal: bool = True, padded: bool = False, dtype: str = "float32") -> shapes.Case:
    return shapes.Case(replace(SMALL, causal=causal), 3, 9, 3, 2, padded, dtype)


def provider(name: str) -> Provider:
    return next(provider for provider in PROVIDERS if provider.name == name)


@pytest.mark.parametrize("name", ["eager", "sdpa", "merged"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_providers_agree(name: str, dtype: str, causal: bool, padded: bool) -> None:
    inputs = make_inputs(small_case(causal=causal, padded=padded, dtype=dtype), "cpu")
    gate = Gate(inputs)
    actual = with_gradients(provider(name).run, inputs, gate.grad_out)
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    for key, tensor in actual.items():
        torch.testing.assert_close(
            tensor.double(), gate.exact[key], rtol=tolerance, atol=tolerance, msg=key
        )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_flex_has_the_mask_of_the_others(causal: bool, padded: bool) -> None:
    inputs = make_inputs(small_case(causal=causal, padded=padded), "cpu")
    block_mask, visible = _block_mask(inputs), inputs.visible()
    assert (block_mask is None) == (visible is None)
    if block_mask is None or visible is None:
        return
    text, head, query, key = torch.meshgrid(
        *(torch.arange(size) for size in (3, 1, 9, 14)), indexing="ij"
    )
    expected = F.pad(visible, (5, 0), value=True).expand(3, 1, 9, 14)
    assert torch.equal(block_mask.mask_mod(text, head, query, key), expected)


def test_the_gate_finds_wrong_results() -> None:
    gate = Gate(make_inputs(small_case(), "cpu"))
    exact = gate.check(eager)
    assert exact.passed
    assert not gate.check(lambda inputs: eager(inputs) * 1.001).passed
    wrong_gradient = gate.check(lambda inputs: eager(replace(inputs, key=inputs.key.detach())))
    assert not wrong_gradient.passed
    assert wrong_gradient.name == "key"
    assert not Verdict("result", float("nan"), 1.0).passed


def test_chunks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(small_case(padded=True), "cpu")
    whole = Gate(inputs).exact
    monkeypatch.setattr("benches.attention.gate.CHUNK", 1)
    for name, tensor in Gate(inputs).exact.items():
        torch.testing.assert_close(tensor, whole[name])


def test_the_model_equals_a_calculation_by_hand() -> None:
    shape = shapes.Shape("two heads", 2, 1, 4, causal=True)
    case = shapes.Case(shape, 2, 3, 1, 1, padded=False, dtype="float16")
    # in each text 3 queries see the 2 prefix tokens, and 1 + 2 + 3 text tokens
    pairs = 2 * (3 * 2 + 6)
    assert model.flops(case, "forward") == 4 * 4 * 2 * pairs
    assert model.flops(case, "both") == 14 * 4 * 2 * pairs
    query, text = 2 * 2 * 3 * 2 * 4, 2 * 2 * 2 * 3 * 1 * 4
    prefix, lse = 2 * 2 * (1 + 2 * 1) * 4, 4 * 2 * 2 * 3
    assert model.bytes_moved("fused", case, "forward") == 2 * query + text + prefix + lse
    # one program for each head and text, which writes both prefix gradients in float32
    partials = 4 * 2 * 2 * 2 * 2 * 4
    first = 4 * query + text + prefix + 2 * lse + partials
    second = 2 * query + 2 * text + 2 * lse
    assert model.bytes_moved("fused", case, "backward") == first + partials + prefix + second
    keys, mask = 2 * 2 * 2 * 5 * 1 * 4, 3 * 5
    cat = text + prefix + keys
    # on a GPU, torch repeats the keys for both heads if there is a mask
    on_cpu = cat + mask + query + keys + mask + query + lse
    assert model.bytes_moved("sdpa", case, "forward", "cpu") == on_cpu
    assert model.bytes_moved("sdpa", case, "forward") == on_cpu + keys + 2 * keys + keys
    for name in ("eager", "sdpa", "merged", "flex", "fused"):
        parts = [model.bytes_moved(name, case, part) for part in model.PASSES]
        assert parts[0] + parts[1] == parts[2]


def test_padding_counts_as_no_work() -> None:
    full, padded = small_case(), small_case(padded=True)
    assert 0 < min(padded.lengths) < max(padded.lengths) <= 9
    assert model.flops(padded, "forward") < model.flops(full, "forward")
    fused = [model.bytes_moved("fused", case, "both") for case in (padded, full)]
    assert fused[0] < fused[1]


def test_grids_keep_the_number_of_tokens() -> None:
    cases = shapes.gpu_grid()
    assert {case.n_batch * case.n_text for case in cases} == {16_384}
    assert {case.n_text for case in cases} == set(shapes.TEXTS)
    assert {case.n_prefix for case in cases} == set(shapes.PREFIXES)
    assert len({str(case) for case in cases}) == len(cases)
    assert max(case.n_text for case in shapes.cpu_grid()) <= 256


def test_rows_are_measured_skipped_or_wrong() -> None:
    def breaks(inputs: object) -> torch.Tensor:
        raise RuntimeError("broken\nin two lines")

    never = provider("eager").refusal
    off = Provider("off", lambda inputs: eager(inputs) + 1, never)
    some = (*PROVIDERS, off, Provider("breaks", breaks, never))
    rows = measure.measure_case(small_case(), "cpu", rounds=3, providers=some)
    assert len(rows) == len(some) * 3
    by_status = {row.provider: row.status for row in rows}
    assert by_status == {
        "eager": "measured",
        "sdpa": "measured",
        "merged": "measured",
        "flex": "skipped",
        "fused": "skipped",
        "off": "wrong",
        "breaks": "broken",
    }
    assert {row.provider for row in rows if row.faulty} == {"off"}
    for row in rows:
        assert (row.median_ms is None) == (row.status != "measured") == bool(row.reason)
    lines = "\n".join(tables.lines_of(rows))
    assert "SKIPPED fused: no GPU: Triton's interpreter is never timed (3 rows)" in lines
    assert "BROKEN breaks: RuntimeError: broken (3 rows)" in lines


def row(name: str, part: str, median: float, moved: float) -> measure.Row:
    blank = measure._blank(small_case(), "cuda", name)
    return replace(
        blank, part=part, median_ms=median, p20_ms=median, p80_ms=median, model_mb=moved, rounds=1
    )


def test_files_are_written_and_read_back(tmp_path: Path) -> None:
    skipped = replace(row("flex", "both", 1.0, 1.0), status="skipped", reason="so", median_ms=None)
    rows = [row("fused", "both", 2.0, 10.0), row("sdpa", "both", 3.0, 25.0), skipped]
    machine = report.describe_machine("cpu")
    paths = report.write_rows(tmp_path / "new", "attention", machine, rows)
    assert report.read_rows(paths[0]) == rows
    with paths[1].open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["provider"] for record in records] == ["fused", "sdpa", "flex"]
    assert records[2]["median_ms"] == ""
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "attention.csv",
        "attention.json",
    ]
    assert "| 9 | 5 | full | - | - | - | - | - | - | 1.50 (2.50) | - | - |" in tables.ratio_tables(
        rows
    )


def test_a_plot_where_there_is_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [replace(row("sdpa", "both", 3.0, 1.0), n_text=n, n_shared=14) for n in (32, 64)]
    for some in (rows, []):
        path = report.write_plot(tmp_path, "attention", some)
        assert path is not None
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("check", checks.checks(quick=True)[:5], ids=str)
def test_the_reference_passes_the_checks(check: checks.Check) -> None:
    def reference(inputs):
        return run_packed(inputs, "reference") if check.packed else sdpa(inputs)

    check = replace(check, n_text=17, dim=16)
    outcome = checks.run_check(check, "cpu", reference)
    assert outcome.passed, outcome
    assert not checks.run_check(check, "cpu", lambda inputs: reference(inputs) * 1.1).passed


def test_low_logits_are_far_below_zero() -> None:
    inputs = checks.build(checks.Check(low=True, n_text=8), "cpu").map(torch.Tensor.float)
    logits = inputs.query @ inputs.key.mT * 64**-0.5
    assert logits.max() < -100


def test_a_check_finds_runs_that_differ() -> None:
    calls = iter(range(9))

    def unsteady(inputs):
        return eager(inputs) + 1e-7 * next(calls)

    check = checks.Check(dtype="float32", n_text=8, dim=16)
    outcome = checks.run_check(check, "cpu", unsteady)
    assert not outcome.passed
    assert "two runs differ in result" in outcome.detail


def test_a_step_with_the_reference_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(steps.MODELS, "small", lambda: steps._bert(**sizes, intermediate_size=16))
    step = steps.Step("small", 4, 12, dtype="float32")
    # with the environment variable alone the reference would run twice, without an error
    with pytest.raises(ValueError, match="expected inputs that the fused attention supports"):
        steps.measure_step(step, "cpu", rounds=2)
    monkeypatch.setattr(steps, "_require_fused", lambda *_: None)
    row = steps.measure_step(step, "cpu", rounds=2)
    assert row.error == 0.0
    assert row.ratio > 0.0
    assert "small B4 T12 P8+1" in steps.step_table([row])


def test_kernels_are_counted_and_timed() -> None:
    some = [provider("sdpa"), provider("fused")]
    (row,) = kernel_time.kernel_times(small_case(), "cpu", rounds=2, providers=some)
    assert row.provider == "sdpa"
    # the times depend on the machine
    assert min(row.forward_us, row.both_us) > 0.0
    assert 1 <= row.forward_kernels < row.both_kernels
    assert f"| {small_case()} | sdpa |" in kernel_time.kernel_table([row])


def test_the_gpu_report_refuses_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_report.main(["--out", str(tmp_path / "report")]) == 2
    assert "NO GPU" in capsys.readouterr().out
    assert not (tmp_path / "report").exists()


def test_a_report_keeps_its_results(tmp_path: Path) -> None:
    found = gpu_report.Report(tmp_path / "report", report.describe_machine("cpu"))
    check = checks.Check(dtype="float32", n_text=8, dim=16)
    gpu_report.run(
        found,
        "cpu",
        kernel_checks=[check],
        cases=[small_case()],
        kernel_cases=[small_case()],
        steps=[steps.Step("MiniLM-L6", 2, 8)],
        rounds=2,
        console=Console(quiet=True),
    )
    # the fused kernels do not run on a CPU: the check fails, and the row has the reason
    assert not found.sound
    found.write()
    with zipfile.ZipFile(found.pack()) as archive:
        text = archive.read("report/report.md").decode()
        kept = json.loads(archive.read("report/checks.json"))
    assert "Complete." in text
    assert "0 of 1 passed" in text
    assert "SKIPPED fused: no GPU" in text
    assert "## Time of the kernels alone" in text
    assert "- timing a step of MiniLM-L6 B2 T8 P8+1: ValueError: expected inputs that" in text
    assert not found.steps
    assert [outcome["check"] for outcome in kept] == [str(check)]
    assert len(report.read_rows(tmp_path / "report" / "attention.json")) == len(PROVIDERS) * 3
