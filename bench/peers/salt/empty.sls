# The smallest state.apply that succeeds.
nothing:
  test.nop: []
