[000h 0000   4]                    Signature : "SRAT"    [System Resource Affinity Table]
[004h 0004   4]                 Table Length : 00000270
[008h 0008   1]                     Revision : 03
[009h 0009   1]                     Checksum : 98
[00Ah 0010   6]                       Oem ID : "NUMAVI"
[010h 0016   8]                 Oem Table ID : "NUMAVSOR"
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "RVAT"
[020h 0032   4]        Asl Compiler Revision : 01000000

[024h 0036   4]               Table Revision : 00000001
[028h 0040   8]                     Reserved : 0000000000000000

[030h 0048   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[031h 0049   1]                       Length : 10

[032h 0050   1]      Proximity Domain Low(8) : 00
[033h 0051   1]                      Apic ID : 00
[034h 0052   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[038h 0056   1]              Local Sapic EID : 00
[039h 0057   3]    Proximity Domain High(24) : 000000
[03Ch 0060   4]                 Clock Domain : 00000000

[040h 0064   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[041h 0065   1]                       Length : 10

[042h 0066   1]      Proximity Domain Low(8) : 00
[043h 0067   1]                      Apic ID : 01
[044h 0068   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[048h 0072   1]              Local Sapic EID : 00
[049h 0073   3]    Proximity Domain High(24) : 000000
[04Ch 0076   4]                 Clock Domain : 00000000

[050h 0080   1]                Subtable Type : 01 [Memory Affinity]
[051h 0081   1]                       Length : 28

[052h 0082   4]             Proximity Domain : 00000000
[056h 0086   2]                    Reserved1 : 0000
[058h 0088   8]                 Base Address : 0000000000000000
[060h 0096   8]               Address Length : 0000000020000000
[068h 0104   4]                    Reserved2 : 00000000
[06Ch 0108   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[070h 0112   8]                    Reserved3 : 0000000000000000

[078h 0120   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[079h 0121   1]                       Length : 10

[07Ah 0122   1]      Proximity Domain Low(8) : 01
[07Bh 0123   1]                      Apic ID : 02
[07Ch 0124   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[080h 0128   1]              Local Sapic EID : 00
[081h 0129   3]    Proximity Domain High(24) : 000000
[084h 0132   4]                 Clock Domain : 00000000

[088h 0136   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[089h 0137   1]                       Length : 10

[08Ah 0138   1]      Proximity Domain Low(8) : 01
[08Bh 0139   1]                      Apic ID : 03
[08Ch 0140   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[090h 0144   1]              Local Sapic EID : 00
[091h 0145   3]    Proximity Domain High(24) : 000000
[094h 0148   4]                 Clock Domain : 00000000

[098h 0152   1]                Subtable Type : 01 [Memory Affinity]
[099h 0153   1]                       Length : 28

[09Ah 0154   4]             Proximity Domain : 00000001
[09Eh 0158   2]                    Reserved1 : 0000
[0A0h 0160   8]                 Base Address : 0000000020000000
[0A8h 0168   8]               Address Length : 0000000020000000
[0B0h 0176   4]                    Reserved2 : 00000000
[0B4h 0180   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[0B8h 0184   8]                    Reserved3 : 0000000000000000

[0C0h 0192   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0C1h 0193   1]                       Length : 10

[0C2h 0194   1]      Proximity Domain Low(8) : 02
[0C3h 0195   1]                      Apic ID : 04
[0C4h 0196   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0C8h 0200   1]              Local Sapic EID : 00
[0C9h 0201   3]    Proximity Domain High(24) : 000000
[0CCh 0204   4]                 Clock Domain : 00000000

[0D0h 0208   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0D1h 0209   1]                       Length : 10

[0D2h 0210   1]      Proximity Domain Low(8) : 02
[0D3h 0211   1]                      Apic ID : 05
[0D4h 0212   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0D8h 0216   1]              Local Sapic EID : 00
[0D9h 0217   3]    Proximity Domain High(24) : 000000
[0DCh 0220   4]                 Clock Domain : 00000000

[0E0h 0224   1]                Subtable Type : 01 [Memory Affinity]
[0E1h 0225   1]                       Length : 28

[0E2h 0226   4]             Proximity Domain : 00000002
[0E6h 0230   2]                    Reserved1 : 0000
[0E8h 0232   8]                 Base Address : 0000000040000000
[0F0h 0240   8]               Address Length : 0000000020000000
[0F8h 0248   4]                    Reserved2 : 00000000
[0FCh 0252   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[100h 0256   8]                    Reserved3 : 0000000000000000

[108h 0264   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[109h 0265   1]                       Length : 10

[10Ah 0266   1]      Proximity Domain Low(8) : 03
[10Bh 0267   1]                      Apic ID : 06
[10Ch 0268   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[110h 0272   1]              Local Sapic EID : 00
[111h 0273   3]    Proximity Domain High(24) : 000000
[114h 0276   4]                 Clock Domain : 00000000

[118h 0280   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[119h 0281   1]                       Length : 10

[11Ah 0282   1]      Proximity Domain Low(8) : 03
[11Bh 0283   1]                      Apic ID : 07
[11Ch 0284   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[120h 0288   1]              Local Sapic EID : 00
[121h 0289   3]    Proximity Domain High(24) : 000000
[124h 0292   4]                 Clock Domain : 00000000

[128h 0296   1]                Subtable Type : 01 [Memory Affinity]
[129h 0297   1]                       Length : 28

[12Ah 0298   4]             Proximity Domain : 00000003
[12Eh 0302   2]                    Reserved1 : 0000
[130h 0304   8]                 Base Address : 0000000060000000
[138h 0312   8]               Address Length : 0000000020000000
[140h 0320   4]                    Reserved2 : 00000000
[144h 0324   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[148h 0328   8]                    Reserved3 : 0000000000000000

[150h 0336   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[151h 0337   1]                       Length : 10

[152h 0338   1]      Proximity Domain Low(8) : 04
[153h 0339   1]                      Apic ID : 08
[154h 0340   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[158h 0344   1]              Local Sapic EID : 00
[159h 0345   3]    Proximity Domain High(24) : 000000
[15Ch 0348   4]                 Clock Domain : 00000000

[160h 0352   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[161h 0353   1]                       Length : 10

[162h 0354   1]      Proximity Domain Low(8) : 04
[163h 0355   1]                      Apic ID : 09
[164h 0356   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[168h 0360   1]              Local Sapic EID : 00
[169h 0361   3]    Proximity Domain High(24) : 000000
[16Ch 0364   4]                 Clock Domain : 00000000

[170h 0368   1]                Subtable Type : 01 [Memory Affinity]
[171h 0369   1]                       Length : 28

[172h 0370   4]             Proximity Domain : 00000004
[176h 0374   2]                    Reserved1 : 0000
[178h 0376   8]                 Base Address : 0000000080000000
[180h 0384   8]               Address Length : 0000000020000000
[188h 0392   4]                    Reserved2 : 00000000
[18Ch 0396   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[190h 0400   8]                    Reserved3 : 0000000000000000

[198h 0408   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[199h 0409   1]                       Length : 10

[19Ah 0410   1]      Proximity Domain Low(8) : 05
[19Bh 0411   1]                      Apic ID : 0A
[19Ch 0412   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[1A0h 0416   1]              Local Sapic EID : 00
[1A1h 0417   3]    Proximity Domain High(24) : 000000
[1A4h 0420   4]                 Clock Domain : 00000000

[1A8h 0424   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[1A9h 0425   1]                       Length : 10

[1AAh 0426   1]      Proximity Domain Low(8) : 05
[1ABh 0427   1]                      Apic ID : 0B
[1ACh 0428   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[1B0h 0432   1]              Local Sapic EID : 00
[1B1h 0433   3]    Proximity Domain High(24) : 000000
[1B4h 0436   4]                 Clock Domain : 00000000

[1B8h 0440   1]                Subtable Type : 01 [Memory Affinity]
[1B9h 0441   1]                       Length : 28

[1BAh 0442   4]             Proximity Domain : 00000005
[1BEh 0446   2]                    Reserved1 : 0000
[1C0h 0448   8]                 Base Address : 00000000A0000000
[1C8h 0456   8]               Address Length : 0000000020000000
[1D0h 0464   4]                    Reserved2 : 00000000
[1D4h 0468   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[1D8h 0472   8]                    Reserved3 : 0000000000000000

[1E0h 0480   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[1E1h 0481   1]                       Length : 10

[1E2h 0482   1]      Proximity Domain Low(8) : 06
[1E3h 0483   1]                      Apic ID : 0C
[1E4h 0484   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[1E8h 0488   1]              Local Sapic EID : 00
[1E9h 0489   3]    Proximity Domain High(24) : 000000
[1ECh 0492   4]                 Clock Domain : 00000000

[1F0h 0496   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[1F1h 0497   1]                       Length : 10

[1F2h 0498   1]      Proximity Domain Low(8) : 06
[1F3h 0499   1]                      Apic ID : 0D
[1F4h 0500   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[1F8h 0504   1]              Local Sapic EID : 00
[1F9h 0505   3]    Proximity Domain High(24) : 000000
[1FCh 0508   4]                 Clock Domain : 00000000

[200h 0512   1]                Subtable Type : 01 [Memory Affinity]
[201h 0513   1]                       Length : 28

[202h 0514   4]             Proximity Domain : 00000006
[206h 0518   2]                    Reserved1 : 0000
[208h 0520   8]                 Base Address : 0000000100000000
[210h 0528   8]               Address Length : 0000000020000000
[218h 0536   4]                    Reserved2 : 00000000
[21Ch 0540   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[220h 0544   8]                    Reserved3 : 0000000000000000

[228h 0552   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[229h 0553   1]                       Length : 10

[22Ah 0554   1]      Proximity Domain Low(8) : 07
[22Bh 0555   1]                      Apic ID : 0E
[22Ch 0556   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[230h 0560   1]              Local Sapic EID : 00
[231h 0561   3]    Proximity Domain High(24) : 000000
[234h 0564   4]                 Clock Domain : 00000000

[238h 0568   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[239h 0569   1]                       Length : 10

[23Ah 0570   1]      Proximity Domain Low(8) : 07
[23Bh 0571   1]                      Apic ID : 0F
[23Ch 0572   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[240h 0576   1]              Local Sapic EID : 00
[241h 0577   3]    Proximity Domain High(24) : 000000
[244h 0580   4]                 Clock Domain : 00000000

[248h 0584   1]                Subtable Type : 01 [Memory Affinity]
[249h 0585   1]                       Length : 28

[24Ah 0586   4]             Proximity Domain : 00000007
[24Eh 0590   2]                    Reserved1 : 0000
[250h 0592   8]                 Base Address : 0000000120000000
[258h 0600   8]               Address Length : 0000000020000000
[260h 0608   4]                    Reserved2 : 00000000
[264h 0612   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[268h 0616   8]                    Reserved3 : 0000000000000000
