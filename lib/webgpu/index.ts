/**
 * `fused-preference-loss/webgpu`: calls on a GPUDevice that are prepared once and recorded many times.
 */
export {
  type PreparedPreferenceLoss,
  prepareFusedLinearPreferenceLoss,
  prepareFusedPreferenceLoss,
} from './prepare.js'
