"""PyTorch to ONNX: conversion, checks, weights and shapes."""
