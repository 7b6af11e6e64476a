"""The tables of a study."""

from rarec.study import markdown


def row(name: str, **values) -> dict:
    found = {"model": name, "what": "", "cold_hr@100": None, "tail_hr@100": 0.25}
    for metric in ("hr@10", "ndcg@10", "hr@100"):
        found[metric] = 0.5
        found[f"{metric}_ci"] = [0.4, 0.6]
    return {**found, **values}


def pair(a: str, b: str, difference: float, ci: list, corrected: list) -> dict:
    metric = {"metric": "hr@100", "difference": difference, "ci": ci}
    return {"a": a, "b": b, **metric, "ci_corrected": corrected}


def test_quality_and_cost_have_a_table_each():
    took = {"trainable_parameters": 1234, "steps": 100, "seconds": 60.0, "peak_rss_mb": 900.0}
    adapter = {"samples_per_second": 80.0, "adapter_bytes": 2**20}
    results = {
        "protocol": {
            "part": "test",
            "cases": 1000,
            "items": 50,
            "cold": 3,
            "tail": 20,
            "tail_events": 5,
            "seeds": {"0": 0, "1": 1},
            "reference": "rarec",
        },
        "rows": [
            row("id", what="ID model", trainable_parameters=99),
            row("rarec", **took, **adapter),
            row("rarec+id", weights=[1.0, 2.5], **{"hr@100": 0.6}),
            row("text", **took),
            row("late_fusion", weights=[0.5, 0.5], **{"hr@100": 0.7}),
        ],
        "paired": [
            pair("id", "rarec", -0.1, [-0.2, 0.1], [-0.3, 0.2]),
            pair("text", "rarec", -0.2, [-0.3, -0.1], [-0.4, 0.1]),
            pair("late_fusion", "rarec+id", 0.1, [0.05, 0.15], [0.01, 0.2]),
        ],
    }
    lines = markdown(results).splitlines()
    assert "1,000 users" in lines[0]
    assert "means over 2 seeds" in lines[0].lower()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    names = [cells[0].strip("| `") for cells in rows]
    # the best fused variant comes first
    assert names[:5] == ["id", "text", "late_fusion", "rarec", "rarec+id"]
    assert names[5:] == ["id", "text", "rarec"]
    quality = dict(zip(names[:5], rows[:5], strict=True))
    assert quality["id"][1] == "ID model"
    assert quality["rarec+id"][4] == "0.600 (0.400-0.600)"
    assert [quality[name][5] for name in ("id", "text", "late_fusion", "rarec")] == [
        *("-0.100", "-0.200*", "+0.100**", ""),
    ]
    assert quality["id"][6:8] == ["", "0.250"]
    assert quality["rarec+id"][8].startswith("1 2.5")
    cost = rows[-1]
    assert cost[1:] == ["1,234", "100", "60", "80", "900", "1.00 |"]


def test_all_rows_of_a_table_have_as_many_columns():
    results = {
        "protocol": {
            "part": "test",
            "cases": 1,
            "items": 5,
            "cold": 0,
            "tail": 0,
            "tail_events": 5,
            "seeds": {"0": 0},
            "reference": "base",
        },
        "rows": [row("base", what="a | b"), row("base+id", weights=[1.0])],
        "paired": [],
    }
    lines = [line.replace("\\|", "") for line in markdown(results).splitlines()]
    assert {line.count("|") for line in lines if line.startswith("| ")} == {10, 8}


def test_names_are_no_markup():
    how = {"part": "test", "cases": 1, "items": 1, "cold": 0, "tail": 0, "tail_events": 5}
    how |= {"seeds": {"0": 0}, "reference": "a|b`c"}
    results = {"protocol": how, "rows": [row("a|b`c", what="x | y\nz")], "paired": []}
    lines = markdown(results).splitlines()
    (shown,) = [line for line in lines if "x " in line]
    assert shown.startswith("| `` a\\|b`c `` | x \\| y z | ")
    assert shown.replace("\\|", "").count("|") == lines[2].count("|")
