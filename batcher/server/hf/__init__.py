"""A local Hugging Face model, with or without a LoRA, behind the OpenAI protocol.

Invariant: only the modules of this package import torch, transformers and peft, and nothing here reaches the network.
"""
