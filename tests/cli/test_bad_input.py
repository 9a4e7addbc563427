"""Bad input, as a user would give it: a message with what, where, what is allowed and the remedy; nothing half-written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ideomotor.cli import names
from ideomotor.cli.main import run
from ideomotor.core.types import Episode
from ideomotor.data.lerobot_writer import DatasetWriter
from ideomotor.sim.tasks.pick import PICK
from tests.cli.conftest import Refused, contents, write_dataset
