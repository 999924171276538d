"""A small trained MoE: trained here, loadable by transformers and vLLM, wide as wanted."""
