"""One step at a time: a Stepper for streams that step together, a StreamPool for streams that step apart."""
