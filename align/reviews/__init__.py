"""The task of Ziegler et al. 2019 and Rafailov et al. 2023, section 6.1, on an open checkpoint: go on with the opening
of a film review so that it is positive, and stay close to the model you came from. Rows, labelers and judges."""
