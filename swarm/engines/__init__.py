"""Inference: the contract of an engine, the registry of engines, one folder for each library. Not: who is asked."""
