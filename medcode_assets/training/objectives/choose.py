"""A job's objective, with what it needs of the untrained model."""

from pathlib import Path

from medcode_assets.training.job import TrainingJob
from medcode_assets.training.objectives.dpo import DirectPreference, answer_log_probabilities
from medcode_assets.training.objectives.objective import Objective
from medcode_assets.training.objectives.sft import SupervisedFineTuning
from medcode_assets.training.steps import RowComputer
from medcode_assets.training.token_file import TokenFile


def choose_objective(job: TrainingJob) -> Objective:
    """Return the job's objective."""
    return SupervisedFineTuning() if job.objective == "sft" else DirectPreference(job.preference.beta)


def add_reference(computer: RowComputer, data: TokenFile, file: Path) -> None:
    """Give preference pairs their log-probabilities under the model as it is now, [pairs, 2]; kept in a file.

    Before training, that is the base model with a fresh adapter, which changes nothing yet: the model with its
    adapter off. Where training starts from an earlier adapter, that one counts in.
    """
    import numpy as np
    import torch

    world = computer.world
    if not file.exists():
        values = np.zeros((len(data), 2))
        computer.model.eval()
        with torch.no_grad(), computer.autocast():
            for place in range(world.rank, len(data), world.size):
                row = computer.objective.row([data[place]], packed=computer.packed, pad=computer.pad)
                log_probabilities = answer_log_probabilities(computer.model, row.to(computer.device))
                values[place] = log_probabilities.double().cpu().numpy()[0]
        computer.model.train()
        summed = np.array(world.add(*values.ravel().tolist())).reshape(values.shape)
        if world.first:
            aside = file.with_suffix(".part.npy")
            np.save(aside, summed)
            aside.replace(file)
        world.wait()
    data.reference = np.load(file)
