"""From adapter to GGUF: merge, convert, and prove that the file answers as the merged model does."""
