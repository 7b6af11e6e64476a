"""The demonstration, on a small dataset in the place of MovieLens-100K."""

from dataclasses import replace

import polars as pl
import pytest

from rarec import demo
from rarec.settings import AlignSettings, IDSettings, TrainingSettings


@pytest.fixture
def small(monkeypatch, tmp_path_factory, planted):
    """Put the planted dataset and an ID model without titles into the demonstration."""
    folder = tmp_path_factory.mktemp("data")
    histories = planted.histories
    pl.DataFrame(
        {
            "user_id": [planted.user_ids[row] for row in histories.rows],
            "item_id": [planted.item_ids[item] for item in histories.items],
            "timestamp": histories.times,
        }
    ).write_csv(folder / "interactions.csv")
    pl.DataFrame({"item_id": planted.item_ids, "title": planted.titles}).write_csv(
        folder / "items.csv"
    )
    monkeypatch.setattr(demo, "fetch", {"ml-100k": folder}.__getitem__)
    ids = IDSettings(dim=8, max_epochs=2, text="")
    monkeypatch.setattr(demo, "IDS", ids)
    monkeypatch.setattr(demo, "QUICK_IDS", replace(ids, max_epochs=1))


def test_a_second_run_does_nothing_again(small, tiny_llm, tmp_path):
    run = tmp_path / "run"
    training = TrainingSettings(max_steps=2, per_device_train_batch_size=16)
    settings = AlignSettings(llm=str(tiny_llm), training=training)
    told: list[str] = []

    def run_again(**options):
        told.clear()
        return demo.run_demo(run, settings=settings, progress=False, say=told.append, **options)

    _, first = run_again()
    assert [row["model"] for row in first["rows"]] == [
        *("popularity", "id", "id_held_out"),
        *("text", "late_fusion", "rarec", "rarec+id"),
    ]
    assert "   2 steps, " in "\n".join(told)
    models = sorted((run / "models").rglob("*"))
    times = [path.stat().st_mtime_ns for path in models]
    _, second = run_again()
    assert second == first
    assert "   models/rarec is there already" in told
    assert [path.stat().st_mtime_ns for path in models] == times

    # a quick run has other settings
    with pytest.raises(ValueError, match="--restart"):
        run_again(quick=True)
    recommender, _ = run_again(quick=True, restart=True)
    assert recommender.models == ["text", "rarec"]
    assert "   4 steps, " in "\n".join(told)
