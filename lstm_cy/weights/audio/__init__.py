"""Files of models of guitar amplifiers: Neural Amp Modeler's .nam, the JSON of RTNeural, AIDA-X and GuitarML."""
