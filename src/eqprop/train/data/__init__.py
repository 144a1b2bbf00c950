"""Data sets: found on disk, checked against their checksums, never downloaded behind the user's back."""

from eqprop.train.data.dataset import Dataset
from eqprop.train.data.fetch import fetch
from eqprop.train.data.load import load
from eqprop.train.data.sets import KNOWN, find
from eqprop.train.data.split import stratified_split

__all__ = ["KNOWN", "Dataset", "fetch", "find", "load", "stratified_split"]
