"""Runs a study's jobs on Ray: warm actors, each advanced one event at a time. `slots` decides how many, `executor` drives, `worker` is one actor."""
