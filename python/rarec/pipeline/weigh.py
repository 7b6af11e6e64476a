"""The step that chooses the weights of a fused answer on validation cases."""

from __future__ import annotations

from pathlib import Path

from rarec.artifacts import read_json, write_json
from rarec.members.fusion import CHOSEN_BY, choose_weights, fused_name, weighing_cases
from rarec.members.id_model import id_scores_to_add
from rarec.pipeline.index import item_vectors
from rarec.pipeline.members import RunMembers
from rarec.run.folder import DATA, ID_MODEL, model_address, weights_address
from rarec.run.freshness import fresh_record, require_inputs
from rarec.run.writing import write_artifact

_FILE = "weights.json"


def weigh(members: RunMembers, name: str) -> dict[str, float]:
    """Return the weight of each member of the sum of an aligned model and the ID model.

    Weights that are fresh are read; else they are chosen by NDCG@100 on validation cases, and
    written.

    Args:
        members: Members of the run.
        name: Name of the aligned model.
    """
    run = members.run
    address = weights_address(fused_name(name))
    file = run.folder(address) / _FILE
    if fresh_record(run, address) is not None:
        return _read(file, name)
    # the index has a lock of its own, and is made first
    vectors = item_vectors(members, name)
    with members.session.making(run, address):
        if fresh_record(run, address) is not None:
            return _read(file, name)
        ids_at, ids = members.baseline()
        made_from = require_inputs(run, [DATA, model_address(name), ids_at])
        cases = weighing_cases(run.split.validation)
        model = (name, members.aligned(name).scores(cases, vectors))
        weights = choose_weights(model, (ID_MODEL, id_scores_to_add(ids, cases)), cases)
        with write_artifact(
            run,
            address,
            made_from=made_from,
            settings={"metric": CHOSEN_BY, "cases": len(cases)},
        ) as folder:
            write_json(folder / _FILE, weights)
    return weights


def _read(file: Path, name: str) -> dict[str, float]:
    weights = read_json(file)
    if weights.keys() != {name, ID_MODEL} or not all(
        isinstance(value, int | float) for value in weights.values()
    ):
        raise ValueError(f"{file}: expected weights of {name} and {ID_MODEL}, got {weights}")
    return {member: float(value) for member, value in weights.items()}
