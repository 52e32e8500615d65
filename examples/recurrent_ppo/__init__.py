"""Recurrent PPO: an LSTM balances a pole whose velocities it cannot see."""
