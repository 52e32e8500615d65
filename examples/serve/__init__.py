"""A server of streams over WebSockets: one model, a session for each connection, steps of all sessions in batches."""
