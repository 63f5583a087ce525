"""The whole Llama 2 paper, running."""
import os

# GNU OpenMP, which runs torch's threads on Linux, lets a thread that waits at a barrier spin for about a millisecond. While
# another program wants a core (the browser of JupyterLab, say) the spinning threads keep it from the one they wait for: toy
# steps then take 20 times as long. A short spin costs nothing where the machine is idle. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
