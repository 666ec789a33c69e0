"""Jobs at work: pictures taken from the queue, labelled by the engine, kept in the store."""
