"""A small MoE: trained here, loadable by transformers and vLLM, widened as needed."""
