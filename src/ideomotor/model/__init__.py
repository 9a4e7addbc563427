"""Networks: tensors in, tensors out. They know no dataset, robot, file or device."""
