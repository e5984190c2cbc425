"""Plans of trainings: settings that follow from measured facts of the data and the machine, as an experiment file."""
