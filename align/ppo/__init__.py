"""The PPO engine. Begin with `trainer`, the loop; then `maths`, its formulas as pure functions with their sources.

`roles` says who shares weights with whom and `assemble` builds it; `rollout` samples episodes and cuts them into
minibatches; `guards` and `metrics` watch, `report` shows, `saving` keeps; `sharding` is what several processes need;
`config` is what the PPO recipe takes, with the arithmetic of a run.
"""
