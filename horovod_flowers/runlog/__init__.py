"""The record of a run: its types, its folder, writing it; reading/ brings it back, checked. No TensorFlow here."""
