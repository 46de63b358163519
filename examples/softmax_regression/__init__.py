"""Softmax regression on images of digits, exported with two signatures."""
