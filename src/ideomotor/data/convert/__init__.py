"""Datasets of any format written as LeRobotDatasets."""
