/**
 * `fused-preference-loss/webgpu`: calls on a GPUDevice that are prepared once and recorded many times.
 */
export {
  type PreparedCall,
  prepareFusedLinearPreferenceLoss,
  prepareFusedPreferenceLoss,
} from './prepare.js'
