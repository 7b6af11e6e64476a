"""The steps from a dataset to answers, one file a step: functions of a run folder and settings."""
