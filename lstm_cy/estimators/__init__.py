"""Estimators with scikit-learn's conventions: fit, predict, pipelines, grid search, clone and pickle."""

from ..extras import pip_install

try:
    import sklearn.utils.validation
except ImportError as error:
    raise ImportError(f"lstm_cy.estimators needs scikit-learn 1.6 or newer: {pip_install('sklearn')}") from error
if not hasattr(sklearn.utils.validation, "validate_data"):
    raise ImportError(f"lstm_cy.estimators needs scikit-learn 1.6 or newer: {pip_install('sklearn')}")

from .backtest import Backtest
from .classifier import LSTMClassifier
from .forecaster import LSTMForecaster
from .regressor import LSTMRegressor
from .scale import Scale as _Scale  # noqa: F401  its name in pickles of former versions

__all__ = ["Backtest", "LSTMClassifier", "LSTMForecaster", "LSTMRegressor"]
