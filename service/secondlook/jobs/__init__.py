"""Background work: jobs label queued images, trainings make students; results go to the store."""
