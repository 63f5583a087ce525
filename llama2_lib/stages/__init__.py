"""The paper, stage by stage. A stage never imports a stage; `road` alone knows their order."""
