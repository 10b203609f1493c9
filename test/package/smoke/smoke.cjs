require('./report.cjs')(require('fused-preference-loss'))
