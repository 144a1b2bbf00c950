"""`eqprop predict`: labels and scores for a file of examples."""

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict", "read_inputs"]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as printed by `eqprop train`.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Examples: .npy, .npz, .csv, or IDX (plain or .gz).")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write there instead of to the screen.")] = None,
) -> None:
    """Settle a trained system on examples and print a line for each: label, then scores."""
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax()
    from eqprop.train.run import Run

    trained = Run(run)
    set_precision(trained.config.precision)
    import numpy as np

    scores = np.asarray(trained.predict(read_inputs(file)))
    scores = scores.reshape(len(scores), -1)
    lines = ["label," + ",".join(f"score_{i}" for i in range(scores.shape[1]))]
    lines += [f"{int(np.argmax(row))}," + ",".join(f"{value:.6g}" for value in row) for row in scores]
    text = "\n".join(lines) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"{len(scores)} predictions in {out}")


def read_inputs(path: Path):
    """Examples from a file: an array, leading axis the example.

    Raises:
        ValueError: if the file is missing, unreadable, or holds no array of numbers.
    """
    import numpy as np

    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                name = next((n for n in ("inputs", "test_inputs", "x") if n in arrays), arrays.files[0])
                return arrays[name]
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".gz" or "idx" in path.name or "ubyte" in path.name:
            from eqprop.train.data.idx import read_idx

            return read_idx(path)
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    raise ValueError(f"{path}: unknown kind of file `{path.suffix}`; give .npy, .npz, .csv or IDX.")


def _read_csv(path):
    import numpy as np

    with open(path, encoding="utf-8") as file:
        first = file.readline().split(",")
    try:
        [float(word) for word in first]
        header = 0
    except ValueError:
        header = 1
    return np.loadtxt(path, delimiter=",", skiprows=header, ndmin=2)
