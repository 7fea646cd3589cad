"""Tests of gitopsd, and the real servers they run against."""
