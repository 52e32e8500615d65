# Allows other packages to write `from lstm_cy cimport embed` and `from lstm_cy.embed cimport ...`.
