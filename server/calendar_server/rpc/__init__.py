"""gRPC's door: from calls to commands, from answers and errors to the wire."""
