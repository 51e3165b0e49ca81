"""The paper's claims, tested on a benchmark that runs on any machine."""
