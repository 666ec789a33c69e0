"""Jobs at work: images taken from the queue, labelled by the engine, kept in the store."""
