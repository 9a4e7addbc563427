"""What every layer shares: types, the embodiment specification, rotations, errors, files. numpy and the standard library only."""
