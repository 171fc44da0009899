"""Airflow wiring: schedules, partition keys and task order."""
